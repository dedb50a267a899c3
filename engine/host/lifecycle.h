// A container's life on one host: run, stop, remove, execute; and the notice of its end.
//
// Threads: all members may be called at once, from start() on.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "engine/host/host.h"
#include "engine/host/reaper.h"

namespace godwit::engine {

class Lifecycle {
 public:
  explicit Lifecycle(Host& host) : host_(host) {}
  // Begins to notice ends of containers. Before anything else.
  Result<void> start();

  Reply<StoredContainer> run(model::ContainerRecord record);
  Reply<ExitStatus> stop(const std::string& id, int64_t grace_ms);
  Reply<void> remove(const std::string& id, bool force);
  Reply<CommandOutcome> execute(const std::string& id, const std::vector<std::string>& command);

  // The container runs in `pid`: from now on its end will be noticed.
  Result<void> keep(const model::ContainerRecord& record, pid_t pid);
  // It has ended, and nobody saw how.
  void note_unseen_end(const std::string& id);
  // Its processes, its network and its record; what cannot be deleted makes it a failed one.
  Result<void> delete_all_of(const model::ContainerRecord& record);
  // The same, but what cannot be deleted stays in the hands of who has it: to be tried again.
  Result<void> delete_parts_of(const model::ContainerRecord& record);

 private:
  Reply<void> check_request(const model::ContainerRecord& record) const;
  Result<pid_t> create(model::ContainerRecord& record);
  Reply<ExitStatus> end(const std::string& id, int64_t grace_ms);

  Host& host_;
  std::unique_ptr<Reaper> reaper_;
};

}  // namespace godwit::engine
