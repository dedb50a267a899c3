#include "engine/host/recovery.h"

#include <spdlog/spdlog.h>

#include <ranges>

namespace godwit::engine {

using model::ContainerRecord;

// The record counts, not what the store remembers of it: a status may be damaged.
std::optional<SessionRecord> Recovery::open_session_of(const StoredContainer& container,
                                                       const std::vector<SessionRecord>& records) {
  for (const SessionRecord& record : std::views::reverse(records)) {
    if (record.container != container.record.id() || record.uid != container.record.uid()) continue;
    const uint64_t incarnation = container.record.incarnation();
    // Which it no longer has once that session is over here, except if it was aborted.
    const bool in_it = incarnation == record.incarnation && record.state != SessionState::kAborted;
    const bool let_run = incarnation == record.incarnation + 1 && record.state == SessionState::kArmed;
    if (in_it || let_run) return record;
  }
  return std::nullopt;
}

void Recovery::recover_all() {
  const auto tell = [](const Error& error) { spdlog::error("{}", error.to_string()); };
  const auto records = host_.sessions.list(tell);
  if (!records) tell(records.error());
  for (const StoredContainer& container : host_.store.list()) {
    const std::string& id = container.record.id();
    const auto open = container.session.empty() && records ? open_session_of(container, *records)
                                                           : std::optional<SessionRecord>();
    if (open) {
      spdlog::warn("{}: its status does not say so, but it is in session {}", id, open->session);
      const Stage stage = open->side == Side::kSource ? Stage::kMigrating : Stage::kArriving;
      host_.store.take_in_hand(id, stage, open->session);
    }
    if (const auto now = host_.store.find(id)) recover(*now);
  }
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
    case Stage::kFailed:  // fenced
      if (host_.observe(record.id()) == Copy::kHeld) return;
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
