#include "engine/session/memory_view.h"

#include <sys/mman.h>
#include <sys/sysmacros.h>

#include <algorithm>
#include <map>

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
  // What it is of, so that another object in the same place is not taken for it.
  if (!mapping.path().empty()) {
    vma.device_major = major(mapping.file().device());
    vma.device_minor = minor(mapping.file().device());
    vma.inode = std::max<uint64_t>(mapping.file().inode(), 1);
  } else if (mapping.shared_memory() != 0) {
    vma.device_minor = 1;  // the kernel's own file system for shared memory
    vma.inode = mapping.shared_memory();
  }
  return vma;
}

}  // namespace

Result<MemoryView> make_memory_view(const runtime::model::Snapshot& snapshot,
                                    const std::vector<CapturedProcess>& processes,
                                    const std::function<Result<int>(uint64_t)>& shared_memory_fd) {
  MemoryView view;
  view.frozen = snapshot.frozen();
  std::map<uint64_t, SharedMemoryView> shared;
  for (const runtime::model::SharedMemory& object : snapshot.shared_memory()) {
    GODWIT_ASSIGN(const int fd, shared_memory_fd(object.id()));
    shared[object.id()] = {.space_id = object.id(),
                           .fd = fd,
                           .size = object.size(),
                           .always_compared = object.traceless(),
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
