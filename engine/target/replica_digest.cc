#include "engine/target/replica_digest.h"

#include "engine/session/memory_view.h"
#include "runtime/memory/store_tracker.h"

namespace godwit::engine {

Result<runtime::MemoryView> view_of_replica(const runtime::Replica& replica,
                                            const runtime::model::Snapshot& snapshot) {
  std::vector<runtime::CapturedProcess> processes;
  for (const auto& process : snapshot.processes()) {
    GODWIT_ASSIGN(const pid_t host_pid, replica.host_pid(process.pid()));
    processes.push_back({.host_pid = host_pid, .container_pid = static_cast<pid_t>(process.pid())});
  }
  return make_memory_view(snapshot, processes,
                          [&replica](uint64_t id) { return replica.shared_memory_fd(id); });
}

Result<void> ReplicaDigest::update(const runtime::Replica& replica,
                                   const runtime::model::Snapshot& snapshot) {
  for (const auto& process : snapshot.processes()) {
    const uint32_t pid = process.pid();
    GODWIT_ASSIGN(const pid_t host_pid, replica.host_pid(pid));
    pid_t& followed = followed_[pid];
    if (followed == host_pid) continue;
    GODWIT_ASSIGN(auto tracker,
                  runtime::make_store_tracker(host_pid, [this, pid] { return sink_.take_list(pid); }));
    digest_.add_process(pid, host_pid, std::move(tracker));
    followed = host_pid;
  }
  GODWIT_ASSIGN(runtime::MemoryView view, view_of_replica(replica, snapshot));
  return digest_.update(std::move(view));
}

Result<std::vector<runtime::SpaceDigest>> ReplicaDigest::finish(const runtime::MemoryView& view) {
  GODWIT_TRY(digest_.update(view));
  return digest_.digests(view);
}

}  // namespace godwit::engine
