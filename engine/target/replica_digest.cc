#include "engine/target/replica_digest.h"

#include "engine/memory_view.h"

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

Result<void> ReplicaDigest::update(runtime::Replica& replica, const runtime::model::Snapshot& snapshot) {
  GODWIT_TRY(
      replica.visit([this](uint32_t container_pid, pid_t host_pid, runtime::Puppet& puppet) -> Result<void> {
        pid_t& followed = followed_[container_pid];
        if (followed == host_pid) return {};
        GODWIT_ASSIGN(auto tracker, runtime::make_uffd_async_tracker(host_pid, puppet));
        digest_.add_process(container_pid, host_pid, std::move(tracker));
        followed = host_pid;
        return {};
      }));
  GODWIT_ASSIGN(runtime::MemoryView view, view_of_replica(replica, snapshot));
  return digest_.update(std::move(view));
}

Result<std::vector<runtime::SpaceDigest>> ReplicaDigest::finish(const runtime::MemoryView& view) {
  GODWIT_TRY(digest_.update(view));
  return digest_.digests(view);
}

}  // namespace godwit::engine
