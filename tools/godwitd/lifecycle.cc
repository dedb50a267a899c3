// A container's life on one host: run, stop, remove, execute.
#include <spdlog/spdlog.h>
#include <sys/stat.h>

#include <csignal>
#include <ctime>

#include "tools/common/validate.h"
#include "tools/godwitd/agent.h"

namespace godwit::tools {

using engine::model::ContainerRecord;

namespace {

constexpr int64_t kGraceMsDefault = 10'000;
constexpr int64_t kGraceMsMax = 600'000;
// After SIGKILL: a process in an uninterruptible sleep ends when that does.
constexpr int64_t kKilledMs = 10'000;
constexpr uint64_t kMemoryLimitMin = uint64_t{4} << 20;

ContainerRecord record_of(const api::v1::RunRequest& request) {
  ContainerRecord record;
  record.set_id(request.id());
  record.set_bundle(request.bundle());
  record.set_hostname(request.hostname().empty() ? request.id() : request.hostname());
  record.set_address(request.address());
  record.set_gateway(request.gateway());
  record.set_environment(request.environment());
  record.set_anti_affinity_group(request.anti_affinity_group());
  record.set_memory_limit_bytes(request.memory_limit_bytes());
  record.set_cpu_millis(request.cpu_millis());
  record.set_created_unix_s(::time(nullptr));
  return record;
}

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

Answer<void> Agent::check_request(const ContainerRecord& record) const {
  GODWIT_TRY(or_invalid(validate_id(record.id())));
  GODWIT_TRY(or_invalid(check_bundle(record.bundle())));
  GODWIT_TRY(or_invalid(validate_hostname(record.hostname())));
  GODWIT_TRY(or_invalid(validate_cidr(record.address())));
  if (!record.gateway().empty()) GODWIT_TRY(or_invalid(validate_gateway(record.gateway(), record.address())));
  GODWIT_TRY(or_invalid(validate_label("environment", record.environment())));
  GODWIT_TRY(or_invalid(validate_label("group", record.anti_affinity_group())));
  if (record.memory_limit_bytes() != 0 && record.memory_limit_bytes() < kMemoryLimitMin)
    return answer_error(grpc::StatusCode::INVALID_ARGUMENT, "accept the memory limit",
                        std::to_string(record.memory_limit_bytes()), "it must be 4 MiB or more");
  if (!record.anti_affinity_group().empty())
    for (const StoredContainer& other : store_.list())
      if (other.record.anti_affinity_group() == record.anti_affinity_group() &&
          other.record.id() != record.id())
        return answer_error(grpc::StatusCode::FAILED_PRECONDITION, "run", record.id(),
                            other.record.id() + " of the same anti-affinity group is on this host");
  return {};
}

Answer<StoredContainer> Agent::run(const api::v1::RunRequest& request) {
  ContainerRecord record = record_of(request);
  GODWIT_TRY(check_request(record));
  GODWIT_TRY(store_.add(record, Stage::kStarting));
  auto pid = create(record);
  if (pid) {
    if (auto kept = keep(record, *pid); !kept) pid = std::unexpected(kept.error());
  }
  if (!pid) {
    if (auto deleted = delete_all_of(record); !deleted)
      spdlog::error("{}: what was begun cannot be undone: {}", record.id(), deleted.error().to_string());
    return answer_error(grpc::StatusCode::INTERNAL, pid.error());
  }
  spdlog::info("{}: runs as pid {} at {}", record.id(), *pid, record.address());
  return store_.find(record.id());
}

// The network first: the container finds it ready.
Result<pid_t> Agent::create(ContainerRecord& record) {
  GODWIT_ASSIGN(const runtime::Attachment attachment, network_.attach(network_spec(record), /*held=*/false));
  record.set_mac(attachment.mac);
  const runtime::ContainerSpec spec{
      .id = record.id(),
      .bundle = record.bundle(),
      .hostname = record.hostname(),
      .limits = {.memory_bytes = record.memory_limit_bytes(), .cpu_millis = record.cpu_millis()},
      .network_namespace = attachment.network_namespace,
      .log_path = engine::container_paths(options_.root, record.id()).log};
  return runc_.run(spec);
}

Result<void> Agent::delete_all_of(const ContainerRecord& record) {
  // Each part is tried, whatever becomes of the others; the first failure is told, and the record stays.
  auto result = runc_.remove(record.id(), /*force=*/true);
  if (auto detached = network_.detach(network_spec(record)); !detached && result) result = detached;
  if (!result) {
    if (auto settled = store_.settle(record.id(), Stage::kFailed, result.error().to_string()); !settled)
      spdlog::error("{}: {}", record.id(), settled.error().to_string());
    return result;
  }
  return store_.erase(record.id());
}

Answer<ExitStatus> Agent::stop(const std::string& id, int64_t grace_ms) {
  GODWIT_ASSIGN(const StoredContainer container,
                store_.begin(id, "stop", {Stage::kRunning}, Stage::kStopping));
  auto exit = end(id, grace_ms == 0 ? kGraceMsDefault : std::min(grace_ms, kGraceMsMax));
  const Stage stage = exit ? Stage::kStopped : Stage::kRunning;
  GODWIT_TRY(or_internal(store_.settle(id, stage)));
  return exit;
}

Answer<ExitStatus> Agent::end(const std::string& id, int64_t grace_ms) {
  // A failed kill is one of a container that has just ended, or one that SIGKILL will tell about.
  if (auto killed = runc_.kill(id, SIGTERM); !killed) spdlog::debug("{}: {}", id, killed.error().to_string());
  if (auto exit = store_.await_exit(id, grace_ms)) return *exit;
  auto killed = runc_.kill(id, SIGKILL);
  if (auto exit = store_.await_exit(id, killed ? kKilledMs : 0)) return *exit;
  GODWIT_TRY(or_internal(killed));
  return answer_error(grpc::StatusCode::INTERNAL, "stop", id, "it has not ended after SIGKILL");
}

Answer<void> Agent::remove(const std::string& id, bool force) {
  auto container =
      store_.begin(id, "remove", {Stage::kStopped, Stage::kFailed, force ? Stage::kRunning : Stage::kStopped},
                   Stage::kRemoving);
  if (!container) return std::unexpected(container.error());
  GODWIT_TRY(or_internal(delete_all_of(container->record)));
  spdlog::info("{}: removed", id);
  return {};
}

Answer<runtime::Runc::ExecOutcome> Agent::execute(const std::string& id,
                                                  const std::vector<std::string>& command) {
  if (command.empty())
    return answer_error(grpc::StatusCode::INVALID_ARGUMENT, "execute in", id, "there is no command");
  GODWIT_TRY(store_.begin_command(id));
  auto outcome = or_internal(runc_.exec(id, command));
  store_.end_command(id);
  return outcome;
}

}  // namespace godwit::tools
