#include "engine/session/memory_view.h"

#include <fcntl.h>
#include <sys/mman.h>

#include <map>
#include <set>

namespace godwit::engine {

using runtime::CapturedProcess;
using runtime::MemoryView;
using runtime::ProcessView;
using runtime::SharedMemoryView;
using runtime::Vma;

namespace {

Vma to_vma(const runtime::model::Mapping& mapping) {
  Vma vma;
  vma.start = mapping.start();
  vma.end = mapping.end();
  vma.readable = (mapping.protection() & PROT_READ) != 0;
  vma.writable = (mapping.protection() & PROT_WRITE) != 0;
  vma.executable = (mapping.protection() & PROT_EXEC) != 0;
  vma.shared = (mapping.flags() & MAP_SHARED) != 0;
  vma.offset = mapping.offset();
  vma.name = mapping.path();
  // Only its being a file counts: pages that are still the file's do not travel.
  vma.inode = mapping.path().empty() ? 0 : 1;
  return vma;
}

// Shared memory that someone may write without touching a page table: through a writable descriptor.
std::set<uint64_t> written_by_descriptor(const runtime::model::Snapshot& snapshot) {
  std::set<uint64_t> ids;
  for (const runtime::model::FileDescription& description : snapshot.descriptions())
    if (description.has_memory() && (description.flags() & O_ACCMODE) != O_RDONLY)
      ids.insert(description.memory().shared_memory());
  return ids;
}

}  // namespace

Result<MemoryView> make_memory_view(const runtime::model::Snapshot& snapshot,
                                    const std::vector<CapturedProcess>& processes,
                                    const std::function<Result<int>(uint64_t)>& shared_memory_fd) {
  MemoryView view;
  view.frozen = snapshot.frozen();
  std::map<uint64_t, SharedMemoryView> shared;
  const std::set<uint64_t> by_descriptor = written_by_descriptor(snapshot);
  for (const runtime::model::SharedMemory& object : snapshot.shared_memory()) {
    GODWIT_ASSIGN(const int fd, shared_memory_fd(object.id()));
    shared[object.id()] = {.space_id = object.id(),
                           .fd = fd,
                           .size = object.size(),
                           .written_by_descriptor = by_descriptor.contains(object.id()),
                           .mappings = {}};
  }
  std::map<uint32_t, pid_t> host_pids;
  for (const CapturedProcess& process : processes)
    host_pids[static_cast<uint32_t>(process.container_pid)] = process.host_pid;
  for (const runtime::model::Process& process : snapshot.processes()) {
    ProcessView space{
        .space_id = process.pid(), .host_pid = host_pids[process.pid()], .vmas = {}, .kernel_bytes = {}};
    for (const runtime::model::Thread& thread : process.threads())
      if (thread.rseq_length() != 0)
        space.kernel_bytes.push_back(
            {.start = thread.rseq_address(), .end = thread.rseq_address() + thread.rseq_length()});
    for (const runtime::model::Mapping& mapping : process.memory().mappings()) {
      // Shared file mappings have their pages in the file, which both hosts see.
      if ((mapping.flags() & MAP_SHARED) != 0 && mapping.shared_memory() == 0) continue;
      space.vmas.push_back(to_vma(mapping));
      if (const auto found = shared.find(mapping.shared_memory()); found != shared.end())
        found->second.mappings.push_back({.process_space_id = process.pid(),
                                          .start = mapping.start(),
                                          .end = mapping.end(),
                                          .offset = mapping.offset()});
    }
    view.processes.push_back(std::move(space));
  }
  for (auto& [id, space] : shared) view.shared_memory.push_back(std::move(space));
  return view;
}

}  // namespace godwit::engine
