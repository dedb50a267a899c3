// What the commit machine orders, done to containers of this host. All of it may be done again.
#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include "engine/host/settlement.h"
#include "runtime/container/freezer.h"
#include "runtime/network/leftovers.h"
#include "runtime/process/heal.h"
#include "runtime/process/leftovers.h"

namespace godwit::engine {

using model::ContainerRecord;

namespace {

// A container that does not freeze is not to stand still for long.
constexpr int kFreezeMs = 200;
// One that is another host's is to stand still, however long that takes.
constexpr int kFreezeRemainsMs = 10'000;
constexpr size_t kPlanBytesMax = size_t{64} << 20;

void tell(const std::string& id, const runtime::Faults& faults) {
  for (const Error& fault : faults) spdlog::error("{}: {}", id, fault.to_string());
}

}  // namespace

// Undoes everything that a session can do to a container. What can be done without is tried and told of: a
// container that runs slowly is better than one that does not run.
Result<void> Settlement::go_on_here(const ContainerRecord& record, bool heal) {
  const std::string& id = record.id();
  GODWIT_ASSIGN(const pid_t pid, host_.find_process(id));
  GODWIT_ASSIGN(auto freezer, runtime::Freezer::open(pid));
  if (heal) {
    // In repair mode nobody is to work with a connection.
    log_failure(id, freezer.freeze(Deadline::in_ms(kFreezeMs)));
    if (const auto pids = freezer.processes())
      tell(id, runtime::leave_repair_mode(*pids, runtime::RepairEnd::kSilently));
    else
      log_failure(id, std::unexpected(pids.error()));
  }
  const auto attachment = host_.network.find(id);
  log_failure(id, attachment ? runtime::unpark_leftovers(*attachment) : std::unexpected(attachment.error()));
  GODWIT_TRY(freezer.thaw());
  log_failure(id, host_.runc.update(
                      id, {.memory_bytes = record.memory_limit_bytes(), .cpu_millis = record.cpu_millis()}));
  if (const auto pids = freezer.processes(); heal && pids) log_failure(id, runtime::remove_leftovers(*pids));
  const auto stored = host_.store.find(id);
  // It runs, whether that can be written down or not (a full disk); the next agent finds it by the session.
  log_failure(id, stored && stored->pid == pid ? host_.store.settle_running(record, pid)
                                               : lifecycle_.keep(record, pid));
  return {};
}

Result<void> Settlement::note_end(const ContainerRecord& record, bool of_target) {
  const std::string& id = record.id();
  if (of_target) log_failure(id, host_.store.settle_running(record, 0));
  const auto stored = host_.store.find(id);
  if (stored && !stored->exit) lifecycle_.note_unseen_end(id);
  return host_.store.settle(id, Stage::kStopped);
}

Result<void> Settlement::note_lost(const std::string& id) {
  return host_.store.settle(
      id, Stage::kFailed,
      "its processes were lost in a migration: this host's remains and the target's replica are "
      "both gone");
}

// The replica is held, and its worker is gone: this is what that one would have done.
Result<void> Settlement::let_run(const ContainerRecord& record) {
  const std::string& id = record.id();
  GODWIT_ASSIGN(const pid_t pid, host_.find_process(id));
  GODWIT_ASSIGN(auto freezer, runtime::Freezer::open(pid));
  GODWIT_TRY(freezer.freeze());
  GODWIT_ASSIGN(const auto pids, freezer.processes());
  runtime::model::AfterCommit plan;
  const auto bytes = read_file(host_.paths(id).plan, kPlanBytesMax);
  if (!bytes)
    log_failure(id, std::unexpected(bytes.error()));
  else if (!plan.ParseFromString(*bytes))
    log_failure(id, refuse("read", host_.paths(id).plan, "it is damaged"));
  tell(id, runtime::release_held(pid, pids, plan));
  const auto attachment = host_.network.find(id);
  log_failure(id, attachment ? runtime::unpark_leftovers(*attachment) : std::unexpected(attachment.error()));
  GODWIT_TRY(freezer.thaw());
  if (attachment) log_failure(id, runtime::announce(*attachment));
  return {};
}

// The container runs here: this agent is its keeper from now on.
Result<void> Settlement::take_over(const ContainerRecord& record) {
  const std::string& id = record.id();
  const auto pid = host_.find_process(id);
  if (pid) {
    spdlog::info("{}: has arrived and runs as pid {}", id, *pid);
    log_failure(id, lifecycle_.keep(record, *pid));
    return {};
  }
  if (pid.error().code != ESRCH) return std::unexpected(pid.error());
  spdlog::warn("{}: has arrived, and ended before anybody could watch it", id);
  return note_end(record, true);
}

Result<void> Settlement::destroy(const ContainerRecord& record) {
  const std::string& id = record.id();
  spdlog::warn("{}: does not come here; what was built of it is removed", id);
  runtime::model::AfterCommit plan;
  const auto bytes = read_file(host_.paths(id).plan, kPlanBytesMax);
  if (const auto pid = host_.find_process(id); pid && bytes && plan.ParseFromString(*bytes))
    tell(id, runtime::clean_up_held(*pid, plan));
  return lifecycle_.delete_parts_of(record);
}

Result<void> Settlement::fence(const std::string& id) {
  GODWIT_TRY(keep_silent(id));
  spdlog::error("{}: fenced: it runs elsewhere, too, by a resolution of its user", id);
  return host_.store.settle(id, Stage::kFailed,
                            "a higher incarnation of it runs elsewhere, by a resolution of its user; it is "
                            "stopped here, and may be removed");
}

// Stopped, and cut off: whatever its stack does, nobody hears it.
Result<void> Settlement::keep_silent(const std::string& id) {
  if (const auto attachment = host_.network.find(id)) log_failure(id, runtime::hold_leftovers(*attachment));
  const auto pid = host_.find_process(id);
  if (!pid && pid.error().code == ESRCH) return {};
  GODWIT_TRY(pid);
  GODWIT_ASSIGN(auto freezer, runtime::Freezer::open(*pid));
  return freezer.freeze(Deadline::in_ms(kFreezeRemainsMs));
}

}  // namespace godwit::engine
