#include "engine/host/lifecycle.h"

#include <spdlog/spdlog.h>
#include <sys/stat.h>

#include <csignal>
#include <ctime>

#include "base/identifier.h"
#include "engine/host/own_addresses.h"
#include "engine/host/validate.h"

namespace godwit::engine {

using model::ContainerRecord;

namespace {

constexpr int64_t kGraceMsDefault = 10'000;
constexpr int64_t kGraceMsMax = 600'000;
// After SIGKILL: a process in an uninterruptible sleep ends when that does.
constexpr int64_t kKilledMs = 10'000;
constexpr uint64_t kMemoryLimitMin = uint64_t{4} << 20;

Result<void> check_bundle(const std::string& bundle) {
  if (bundle.empty() || bundle.front() != '/')
    return refuse("accept the bundle", "'" + bundle + "'", "its path must be absolute");
  struct stat status {};
  const std::string config = bundle + "/config.json";
  if (::stat(config.c_str(), &status) != 0 || !S_ISREG(status.st_mode))
    return refuse("accept the bundle", bundle, "it holds no config.json; is it an OCI bundle on this host?");
  return {};
}

}  // namespace

Result<void> Lifecycle::start() {
  GODWIT_ASSIGN(reaper_, Reaper::start([this](const std::string& id, const ExitStatus& exit) {
                  if (exit.known)
                    spdlog::info("{}: ended with status {}", id, exit.status);
                  else
                    spdlog::info("{}: ended, nobody saw how", id);
                  host_.store.note_exit(id, exit);
                }));
  return {};
}

Reply<void> Lifecycle::check_request(const ContainerRecord& record) const {
  GODWIT_TRY(or_invalid(validate_record(record)));
  GODWIT_TRY(or_invalid(check_bundle(record.bundle())));
  if (record.memory_limit_bytes() != 0 && record.memory_limit_bytes() < kMemoryLimitMin)
    return deny(DenialKind::kInvalidArgument, "accept the memory limit",
                std::to_string(record.memory_limit_bytes()), "it must be 4 MiB or more");
  GODWIT_TRY(or_deny(DenialKind::kFailedPrecondition, check_not_of_host(record)));
  return {};
}

Reply<StoredContainer> Lifecycle::run(ContainerRecord record) {
  if (record.hostname().empty()) record.set_hostname(record.id());
  record.set_created_unix_s(::time(nullptr));
  GODWIT_ASSIGN(const std::string uid, or_internal(random_name()));
  record.set_uid(uid);
  record.set_incarnation(1);
  GODWIT_TRY(check_request(record));
  GODWIT_TRY(host_.store.add(record, Stage::kStarting));
  auto pid = create(record);
  if (pid) {
    if (auto kept = keep(record, *pid); !kept) pid = std::unexpected(kept.error());
  }
  if (!pid) {
    if (auto deleted = delete_all_of(record); !deleted)
      spdlog::error("{}: what was begun cannot be undone: {}", record.id(), deleted.error().to_string());
    return deny(DenialKind::kInternal, pid.error());
  }
  spdlog::info("{}: runs as pid {} at {}", record.id(), *pid, record.address());
  return host_.store.find(record.id());
}

// The network first: the container finds it ready.
Result<pid_t> Lifecycle::create(ContainerRecord& record) {
  GODWIT_ASSIGN(const runtime::Attachment attachment,
                host_.network.attach(host_.network_spec(record), /*held=*/false));
  record.set_mac(attachment.mac);
  const runtime::ContainerSpec spec{
      .id = record.id(),
      .bundle = record.bundle(),
      .hostname = record.hostname(),
      .limits = {.memory_bytes = record.memory_limit_bytes(), .cpu_millis = record.cpu_millis()},
      .network_namespace = attachment.network_namespace,
      .log_path = host_.paths(record.id()).log};
  return host_.runc.run(spec);
}

Result<void> Lifecycle::keep(const ContainerRecord& record, pid_t pid) {
  GODWIT_TRY(host_.store.settle_running(record, pid));
  auto watched = reaper_->watch(record.id(), pid);
  if (watched || watched.error().code != ESRCH) return watched;
  note_unseen_end(record.id());
  return {};
}

void Lifecycle::note_unseen_end(const std::string& id) {
  host_.store.note_exit(id, {.known = false, .status = 0, .signal = 0, .at_unix_s = ::time(nullptr)});
}

Result<void> Lifecycle::delete_all_of(const ContainerRecord& record) {
  auto result = delete_parts_of(record);
  if (!result)
    log_failure(record.id(), host_.store.settle(record.id(), Stage::kFailed, result.error().to_string()));
  return result;
}

Result<void> Lifecycle::delete_parts_of(const ContainerRecord& record) {
  // Each part is tried, whatever becomes of the others; the first failure is told, and the record stays.
  auto result = host_.runc.remove(record.id(), /*force=*/true);
  if (auto detached = host_.network.detach(host_.network_spec(record)); !detached && result)
    result = detached;
  GODWIT_TRY(result);
  return host_.store.erase(record.id());
}

Reply<ExitStatus> Lifecycle::stop(const std::string& id, int64_t grace_ms) {
  GODWIT_ASSIGN(const StoredContainer container,
                host_.store.begin(id, "stop", {Stage::kRunning}, Stage::kStopping));
  auto exit = end(id, grace_ms == 0 ? kGraceMsDefault : std::min(grace_ms, kGraceMsMax));
  const Stage stage = exit ? Stage::kStopped : Stage::kRunning;
  GODWIT_TRY(or_internal(host_.store.settle(id, stage)));
  return exit;
}

Reply<ExitStatus> Lifecycle::end(const std::string& id, int64_t grace_ms) {
  // A failed kill is one of a container that has just ended, or one that SIGKILL will tell about.
  if (auto killed = host_.runc.kill(id, SIGTERM); !killed)
    spdlog::debug("{}: {}", id, killed.error().to_string());
  if (auto exit = host_.store.await_exit(id, grace_ms)) return *exit;
  auto killed = host_.runc.kill(id, SIGKILL);
  if (auto exit = host_.store.await_exit(id, killed ? kKilledMs : 0)) return *exit;
  GODWIT_TRY(or_internal(killed));
  return deny(DenialKind::kInternal, "stop", id, "it has not ended after SIGKILL");
}

Reply<void> Lifecycle::remove(const std::string& id, bool force) {
  auto container = host_.store.begin(
      id, "remove", {Stage::kStopped, Stage::kFailed, force ? Stage::kRunning : Stage::kStopped},
      Stage::kRemoving);
  if (!container) return std::unexpected(container.error());
  GODWIT_TRY(or_internal(delete_all_of(container->record)));
  spdlog::info("{}: removed", id);
  return {};
}

Reply<CommandOutcome> Lifecycle::execute(const std::string& id, const std::vector<std::string>& command) {
  if (command.empty()) return deny(DenialKind::kInvalidArgument, "execute in", id, "there is no command");
  GODWIT_TRY(host_.store.begin_command(id));
  auto outcome = host_.runc.exec(id, command);
  host_.store.end_command(id);
  if (!outcome) return deny(DenialKind::kInternal, outcome.error());
  return CommandOutcome{.exit_status = outcome->exit_status, .output = std::move(outcome->output)};
}

}  // namespace godwit::engine
