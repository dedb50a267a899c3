// Containers through the real runc(8).
#include <poll.h>
#include <signal.h>
#include <sys/socket.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <thread>

#include "base/clock.h"
#include "base/fd.h"
#include "runtime/container/cgroup_limits.h"
#include "tests/integration/container/lab.h"

namespace godwit::runtime {
namespace {

template <typename Condition>
bool eventually(Condition condition) {
  const int64_t deadline_us = monotonic_us() + 5'000'000;
  while (!condition()) {
    if (monotonic_us() > deadline_us) return false;
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  return true;
}

class RuncTest : public ContainerLab {};

TEST_F(RuncTest, AContainerLivesAndGoes) {
  const auto bundle =
      make_bundle("shell", {"--user", "1234", "--", "/bin/sh", "-c", "echo hello; exec sleep 1000"});
  ContainerSpec box = spec("box", bundle);
  box.hostname = "wader";
  box.limits = {.memory_bytes = 64 << 20, .cpu_millis = 500};
  EXPECT_EQ(runc_.state("box").value(), ContainerState::kAbsent);
  EXPECT_EQ(runc_.init_pid("box").error().code, ESRCH);
  const auto pid = runc_.run(box);
  ASSERT_TRUE(pid) << pid.error().to_string();
  EXPECT_EQ(runc_.state("box").value(), ContainerState::kRunning);
  EXPECT_EQ(runc_.init_pid("box").value(), *pid);
  EXPECT_TRUE(eventually([&] { return log() == "hello\n"; })) << log();

  const auto exec =
      runc_.exec("box", {"sh", "-c", "cat /proc/sys/kernel/hostname; id -u; echo oops >&2; exit 7"});
  ASSERT_TRUE(exec) << exec.error().to_string();
  EXPECT_EQ(exec->exit_status, 7);
  EXPECT_EQ(exec->output, "wader\n1234\noops\n");
  const auto absent = runc_.exec("box", {"/no/such/program"});
  ASSERT_FALSE(absent);
  EXPECT_NE(absent.error().to_string().find("no such file"), std::string::npos) << absent.error().to_string();

  const auto limits = read_limits(*pid);
  ASSERT_TRUE(limits) << limits.error().to_string();
  EXPECT_EQ(limits->memory_bytes, 64U << 20);
  EXPECT_EQ(limits->cpu_millis, 500U);
  EXPECT_GT(read_usage(*pid).value().memory_bytes, 0U);

  const auto again = runc_.run(box);
  ASSERT_FALSE(again);
  EXPECT_EQ(again.error().code, EEXIST);
  EXPECT_FALSE(runc_.remove("box", false)) << "it runs";
  EXPECT_EQ(runc_.state("box").value(), ContainerState::kRunning);

  ASSERT_TRUE(runc_.kill("box", SIGKILL));
  EXPECT_TRUE(eventually([&] { return runc_.state("box").value() == ContainerState::kStopped; }));
  const auto removed = runc_.remove("box", false);
  EXPECT_TRUE(removed) << removed.error().to_string();
  EXPECT_EQ(runc_.state("box").value(), ContainerState::kAbsent);
  EXPECT_FALSE(std::filesystem::exists(directory_ + "/bundles/box"));
  EXPECT_TRUE(runc_.remove("box", true)) << "what is absent is removed";
}

TEST_F(RuncTest, LimitsChangeWhileItRuns) {
  const auto bundle = make_bundle("shell", {"--", "/bin/sleep", "1000"});
  const auto pid = runc_.run(spec("box", bundle));
  ASSERT_TRUE(pid) << pid.error().to_string();
  EXPECT_EQ(read_limits(*pid).value().memory_bytes, 0U);
  EXPECT_EQ(read_limits(*pid).value().cpu_millis, 0U);
  for (const ContainerLimits wanted : {ContainerLimits{.memory_bytes = 32 << 20, .cpu_millis = 250},
                                       {.memory_bytes = 128 << 20, .cpu_millis = 0},
                                       {.memory_bytes = 64 << 20, .cpu_millis = 2000},
                                       {.memory_bytes = 0, .cpu_millis = 0}}) {
    const auto updated = runc_.update("box", wanted);
    ASSERT_TRUE(updated) << updated.error().to_string();
    const auto now = read_limits(*pid).value();
    EXPECT_EQ(now.memory_bytes, wanted.memory_bytes);
    EXPECT_EQ(now.cpu_millis, wanted.cpu_millis);
  }
  EXPECT_FALSE(runc_.update("absent", {}));
}

TEST_F(RuncTest, WhatCannotStartLeavesOneLineAndNothingElse) {
  const auto bundle = make_bundle("shell", {"--", "/no/such/program"});
  const auto pid = runc_.run(spec("box", bundle));
  ASSERT_FALSE(pid);
  const std::string line = pid.error().to_string();
  EXPECT_NE(line.find("/no/such/program"), std::string::npos) << line;
  EXPECT_EQ(line.find('\n'), std::string::npos) << line;
  EXPECT_EQ(runc_.state("box").value(), ContainerState::kAbsent);
  EXPECT_FALSE(std::filesystem::exists(directory_ + "/bundles/box"));
  EXPECT_FALSE(std::filesystem::exists("/sys/fs/cgroup/memory/" + runc_.cgroup("box")));
  EXPECT_FALSE(runc_.run(spec("../box", bundle)));
  EXPECT_FALSE(runc_.run(spec("box", directory_ + "/absent")));
  EXPECT_FALSE(runc_.run_placeholder(spec("box", directory_ + "/absent")));
}

struct Privileges {
  std::string effective, bounding, ambient, uid, no_new_privileges, seccomp;
  bool operator==(const Privileges&) const = default;
};

Privileges privileges_of_exec(Runc& runc, const std::string& id) {
  const auto outcome = runc.exec(id, {"cat", "/proc/self/status"});
  EXPECT_TRUE(outcome) << outcome.error().to_string();
  std::istringstream lines(outcome ? outcome->output : "");
  Privileges found;
  for (std::string line; std::getline(lines, line);) {
    const auto take = [&](const char* key, std::string& into) {
      if (line.starts_with(std::string(key) + ":\t")) into = line.substr(std::string(key).size() + 2);
    };
    take("CapEff", found.effective);
    take("CapBnd", found.bounding);
    take("CapAmb", found.ambient);
    take("Uid", found.uid);
    take("NoNewPrivs", found.no_new_privileges);
    take("Seccomp", found.seccomp);
  }
  return found;
}

TEST_F(RuncTest, ThePlaceholderIsPrivilegedAndBareAndNobodyElseIs) {
  const auto bundle =
      make_bundle("shell", {"--user", "1234", "--seccomp", "yes", "--", "/bin/sh", "-c", "exec sleep 1000"});
  ASSERT_TRUE(runc_.run(spec("own", bundle)));
  const Privileges own = privileges_of_exec(runc_, "own");
  EXPECT_EQ(own.effective, "0000000000000000");
  EXPECT_EQ(own.no_new_privileges, "1");
  EXPECT_EQ(own.seccomp, "2");

  const int64_t began_us = monotonic_us();
  auto placeholder = runc_.run_placeholder(spec("box", bundle));
  const int64_t took_us = monotonic_us() - began_us;
  ASSERT_TRUE(placeholder) << placeholder.error().to_string();
  RecordProperty("placeholder_us", std::to_string(took_us));
  std::printf("run_placeholder: %ld us\n", static_cast<long>(took_us));

  const pid_t pid = placeholder->pid;
  const std::string proc = "/proc/" + std::to_string(pid);
  EXPECT_EQ(status_line(pid, "Threads"), "1");
  EXPECT_EQ(status_line(pid, "Uid"), "0\t0\t0\t0");
  EXPECT_EQ(status_line(pid, "Seccomp"), "2");
  for (const char* set : {"CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"})
    EXPECT_EQ(status_line(pid, set), status_line(::getpid(), "CapPrm")) << set;
  EXPECT_TRUE(status_line(pid, "NSpid").ends_with("\t1"));
  EXPECT_EQ(std::filesystem::read_symlink(proc + "/cwd"), "/");
  const std::string maps = read_file(proc + "/maps").value();
  EXPECT_LE(std::count(maps.begin(), maps.end(), '\n'), 6) << maps;
  EXPECT_TRUE(eventually([&] {
    return read_file(proc + "/wchan").value_or("").find("futex") != std::string::npos;
  })) << read_file(proc + "/wchan").value_or("");
  // stdin, stdout, stderr and the channel; its image it has closed itself.
  EXPECT_EQ(placeholder->channel_fd, 4);
  EXPECT_FALSE(std::filesystem::exists(std::filesystem::symlink_status(proc + "/fd/3")));
  EXPECT_TRUE(std::filesystem::read_symlink(proc + "/fd/4").string().starts_with("socket:"));
  EXPECT_EQ(std::filesystem::read_symlink(proc + "/fd/1"), directory_ + "/log");

  EXPECT_EQ(runc_.state("box").value(), ContainerState::kRunning);
  EXPECT_EQ(runc_.init_pid("box").value(), pid);
  EXPECT_EQ(privileges_of_exec(runc_, "box"), own);
  // runc's record says what it says of the container that was started the ordinary way.
  const auto record = [&](const char* id) {
    auto config =
        nlohmann::json::parse(read_file(directory_ + "/runc/" + id + "/state.json").value())["config"];
    return nlohmann::json{config["capabilities"], config["rlimits"],          config["no_new_privileges"],
                          config["seccomp"],      config["apparmor_profile"], config["process_label"],
                          config["oom_score_adj"]};
  };
  EXPECT_EQ(record("box"), record("own"));
  // An update writes that record anew from what runc has read.
  ASSERT_TRUE(runc_.update("box", {.memory_bytes = 64 << 20, .cpu_millis = 0}));
  EXPECT_EQ(privileges_of_exec(runc_, "box"), own);
  EXPECT_TRUE(runc_.remove("box", true));
  pollfd hangup{placeholder->channel.get(), POLLIN, 0};
  EXPECT_EQ(::poll(&hangup, 1, 5000), 1) << "the channel ends with the placeholder";
}

TEST_F(RuncTest, ThePlaceholderStartsInAReadOnlyRootAndUnderATightSeccompProfile) {
  const auto bundle =
      make_bundle("shell", {"--user", "1234", "--seccomp", "yes", "--", "/bin/sleep", "1000"});
  auto config = nlohmann::json::parse(read_file(bundle + "/config.json").value());
  config["root"]["readonly"] = true;
  auto& names = config["linux"]["seccomp"]["syscalls"][0]["names"];
  for (const char* gone : {"pause", "capset", "setuid", "setgid", "setgroups", "poll", "select"})
    names.erase(std::find(names.begin(), names.end(), gone));
  ASSERT_TRUE(write_file(bundle + "/config.json", config.dump()));
  const auto placeholder = runc_.run_placeholder(spec("box", bundle));
  ASSERT_TRUE(placeholder) << placeholder.error().to_string();
  EXPECT_EQ(status_line(placeholder->pid, "CapEff"), status_line(::getpid(), "CapPrm"));
}

}  // namespace
}  // namespace godwit::runtime
