#include <fcntl.h>
#include <unistd.h>

#include <filesystem>
#include <nlohmann/json.hpp>

#include "base/command.h"
#include "base/fd.h"
#include "base/identifier.h"
#include "runtime/container/container.h"
#include "runtime/container/last_words.h"
#include "runtime/container/oci.h"
#include "runtime/container/runc_files.h"

namespace godwit::runtime {
namespace {

constexpr int kExecTimeoutMs = 600'000;

Command runc_command(const std::string& root) {
  Command command;
  command.arguments = {"runc", "--root", root, "--log-format", "json"};
  // Nothing of our environment reaches runc: LISTEN_FDS, for one, would make it pass descriptors on.
  command.environment = {"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C"};
  return command;
}

void append(std::vector<std::string>& list, std::initializer_list<std::string> more) {
  list.insert(list.end(), more);
}

// Runs it, and makes one line of its failure.
Result<CommandOutcome> run_checked(const Command& command, const std::string& operation,
                                   const std::string& id) {
  GODWIT_ASSIGN(CommandOutcome outcome, run_command(command));
  if (outcome.exit_status != 0) {
    std::string why = last_words(outcome.errors);
    if (why.empty()) why = "runc ended with status " + std::to_string(outcome.exit_status);
    return refuse(operation, "container " + id, std::move(why));
  }
  return outcome;
}

Result<pid_t> read_pid_file(const std::string& path) {
  GODWIT_ASSIGN(const std::string text, read_file(path, 64));
  const auto pid = nlohmann::json::parse(text, nullptr, false);
  if (!pid.is_number_integer() || pid <= 1 || pid > INT32_MAX) return refuse("read", path, "it holds no pid");
  return pid.get<pid_t>();
}

}  // namespace

struct Runc::Status {
  ContainerState state = ContainerState::kInvalid;
  pid_t pid = 0;
};

Runc::Runc(std::string root, std::string bundles, std::string host)
    : root_(std::move(root)), bundles_(std::move(bundles)), host_(std::move(host)) {}

std::string Runc::cgroup(const std::string& id) const {
  return "godwit-" + host_ + "/" + id;
}

// Checked at every entry: ids become paths.
Result<void> Runc::check(const std::string& id) const {
  GODWIT_TRY(check_identifier("host name", host_));
  return check_identifier("container id", id);
}

Result<void> Runc::check_absent(const ContainerSpec& spec) const {
  GODWIT_TRY(check(spec.id));
  for (const std::string& path : {root_ + "/" + spec.id, bundles_ + "/" + spec.id}) {
    if (::access(path.c_str(), F_OK) == 0)
      return fail("create container", spec.id, EEXIST, "remove it first, or choose another id");
  }
  return {};
}

Result<pid_t> Runc::run(const ContainerSpec& spec) {
  GODWIT_TRY(check_absent(spec));
  GODWIT_ASSIGN(const std::string config, container_config(spec, "/" + cgroup(spec.id)));
  return launch(spec, config, {});
}

Result<pid_t> Runc::launch(const ContainerSpec& spec, const std::string& config,
                           const std::vector<int>& descriptors) {
  const std::string bundle = bundles_ + "/" + spec.id;
  const std::string pid_file = bundle + "/pid";
  GODWIT_ASSIGN(const Fd output, open_file(spec.log_path, O_WRONLY | O_CREAT | O_APPEND, 0600));
  GODWIT_TRY(make_private_directory(root_));
  GODWIT_TRY(make_private_directory(bundle));
  const auto attempt = [&]() -> Result<pid_t> {
    GODWIT_TRY(replace_file(bundle + "/config.json", config));
    // The container's stderr is runc's, so runc's own words go to a file beside.
    const RuncLog log(bundle);
    Command command = runc_command(root_);
    append(command.arguments,
           {"--log", log.path(), "run", "--detach", "--bundle", bundle, "--pid-file", pid_file});
    if (!descriptors.empty())
      append(command.arguments, {"--preserve-fds", std::to_string(descriptors.size())});
    command.arguments.push_back(spec.id);
    command.descriptors = descriptors;
    command.output_fd = output.get();
    GODWIT_ASSIGN(const CommandOutcome outcome, run_command(command));
    if (outcome.exit_status != 0) {
      std::string why = log.last_error();
      if (why.empty()) why = "runc ended with status " + std::to_string(outcome.exit_status);
      return refuse("run container", spec.id, std::move(why));
    }
    return read_pid_file(pid_file);
  };
  auto pid = attempt();
  if (!pid) discard(spec.id);
  return pid;
}

void Runc::discard(const std::string& id) {
  // Its failure would only hide the one that is being reported; what it leaves, remove() finds again.
  static_cast<void>(remove(id, true));
}

Result<Runc::Status> Runc::status(const std::string& id) const {
  GODWIT_TRY(check(id));
  if (::access((root_ + "/" + id).c_str(), F_OK) != 0) {
    if (errno != ENOENT) return fail("look for container", id);
    return Status{.state = ContainerState::kAbsent, .pid = 0};
  }
  Command command = runc_command(root_);
  append(command.arguments, {"state", id});
  GODWIT_ASSIGN(const CommandOutcome outcome, run_checked(command, "ask for the state of", id));
  const auto report = nlohmann::json::parse(outcome.output, nullptr, false);
  if (!report.is_object() || !report.contains("status") || !report.contains("pid") ||
      !report["pid"].is_number_integer())
    return refuse("ask for the state of", "container " + id, "runc's answer is not understood");
  const auto& word = report["status"];
  Status status;
  status.pid = report["pid"].get<pid_t>();
  if (word == "created" || word == "creating")
    status.state = ContainerState::kCreated;
  else if (word == "running")
    status.state = ContainerState::kRunning;
  else if (word == "paused")
    status.state = ContainerState::kPaused;
  else if (word == "stopped")
    status.state = ContainerState::kStopped;
  else
    return refuse("ask for the state of", "container " + id, "runc says " + word.dump());
  return status;
}

Result<ContainerState> Runc::state(const std::string& id) {
  GODWIT_ASSIGN(const Status now, status(id));
  return now.state;
}

Result<pid_t> Runc::init_pid(const std::string& id) {
  GODWIT_ASSIGN(const Status now, status(id));
  const bool alive =
      now.state != ContainerState::kAbsent && now.state != ContainerState::kStopped && now.pid > 1;
  if (!alive) return fail("find the process of container", id, ESRCH);
  return now.pid;
}

Result<void> Runc::kill(const std::string& id, int signal) {
  GODWIT_TRY(check(id));
  Command command = runc_command(root_);
  append(command.arguments, {"kill", id, std::to_string(signal)});
  GODWIT_TRY(run_checked(command, "send signal " + std::to_string(signal) + " to", id));
  return {};
}

Result<void> Runc::remove(const std::string& id, bool force) {
  GODWIT_TRY(check(id));
  if (force || ::access((root_ + "/" + id).c_str(), F_OK) == 0) {
    Command command = runc_command(root_);
    append(command.arguments, {"delete"});
    if (force) command.arguments.emplace_back("--force");
    command.arguments.push_back(id);
    GODWIT_TRY(run_checked(command, "remove", id));
  } else if (::access((bundles_ + "/" + id).c_str(), F_OK) != 0) {
    return fail("remove container", id, ENOENT);
  }
  std::error_code code;
  std::filesystem::remove_all(bundles_ + "/" + id, code);
  if (code) return fail("remove", bundles_ + "/" + id, code.value());
  return {};
}

Result<void> Runc::update(const std::string& id, const ContainerLimits& limits) {
  GODWIT_TRY(check(id));
  if (limits.memory_bytes > INT64_MAX) return fail("limit the memory of container", id, ERANGE);
  const std::string memory = limits.memory_bytes == 0 ? "-1" : std::to_string(limits.memory_bytes);
  const std::string quota =
      limits.cpu_millis == 0 ? "-1" : std::to_string(uint64_t{limits.cpu_millis} * kCpuPeriodUs / 1000);
  Command command = runc_command(root_);
  append(command.arguments, {"update", "--memory", memory, "--memory-swap", memory, "--cpu-quota", quota,
                             "--cpu-period", std::to_string(kCpuPeriodUs), id});
  GODWIT_TRY(run_checked(command, "change the limits of", id));
  return {};
}

Result<Runc::ExecOutcome> Runc::exec(const std::string& id, const std::vector<std::string>& arguments) {
  GODWIT_TRY(check(id));
  if (arguments.empty()) return refuse("run a command in", "container " + id, "no command is given");
  if (::access((bundles_ + "/" + id).c_str(), F_OK) != 0)
    return fail("run a command in container", id, ENOENT);
  const RuncLog log(bundles_ + "/" + id);
  Command command = runc_command(root_);
  append(command.arguments, {"--log", log.path(), "exec", id});
  command.arguments.insert(command.arguments.end(), arguments.begin(), arguments.end());
  command.timeout_ms = kExecTimeoutMs;
  GODWIT_ASSIGN(CommandOutcome outcome, run_command(command, true));
  if (std::string why = log.last_error(); outcome.exit_status != 0 && !why.empty())
    return refuse("run " + arguments[0] + " in", "container " + id, std::move(why));
  return ExecOutcome{.exit_status = outcome.exit_status, .output = std::move(outcome.output)};
}

}  // namespace godwit::runtime
