#include "engine/host/recovery.h"

#include <spdlog/spdlog.h>

namespace godwit::engine {

using model::ContainerRecord;

void Recovery::recover_all() {
  for (const StoredContainer& container : host_.store.list()) recover(container);
}

void Recovery::recover(const StoredContainer& container) {
  const ContainerRecord& record = container.record;
  switch (container.stage) {
    case Stage::kStarting:  // its user never got an answer
    case Stage::kRemoving:
      spdlog::warn("{}: was {} when the agent ended; removing it", record.id(), stage_name(container.stage));
      return log_failure(record.id(), lifecycle_.delete_all_of(record));
    case Stage::kMigrating:
    case Stage::kArriving:
      spdlog::warn("{}: was {} when the agent ended", record.id(), stage_name(container.stage));
      return settlement_.begin(container);
    case Stage::kStopped:
      if (container.exit) return;
      break;
    default:
      break;
  }
  find_again(container);
}

// An ordinary container of an earlier agent: runs still, or has ended in between.
void Recovery::find_again(const StoredContainer& container) {
  const ContainerRecord& record = container.record;
  const auto pid = host_.find_process(record.id());
  if (pid) {
    spdlog::info("{}: found again, pid {}", record.id(), *pid);
    return log_failure(record.id(), lifecycle_.keep(record, *pid));
  }
  if (pid.error().code != ESRCH)
    return log_failure(record.id(), host_.store.settle(record.id(), Stage::kFailed, pid.error().to_string()));
  const auto state = host_.runc.state(record.id());
  if (container.stage == Stage::kFailed && state != runtime::ContainerState::kStopped) return;
  log_failure(record.id(), host_.store.settle(record.id(), Stage::kStopped));
  if (!container.exit) lifecycle_.note_unseen_end(record.id());
}

}  // namespace godwit::engine
