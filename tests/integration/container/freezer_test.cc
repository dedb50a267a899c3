// Freezing and throttling the cgroup of a real container.
#include "runtime/container/freezer.h"

#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <thread>

#include "base/clock.h"
#include "runtime/container/cgroup_limits.h"
#include "tests/integration/container/lab.h"

namespace godwit::runtime {
namespace {

class FreezerTest : public ContainerLab {
 protected:
  // A container of `count` processes that spin and as many that sleep.
  pid_t run_busy(int count) {
    std::string script;
    for (int i = 0; i < count; ++i) script += "(while :; do :; done) & sleep 1000 & ";
    const auto bundle = make_bundle("shell", {"--", "/bin/sh", "-c", script + "wait"});
    const auto pid = runc_.run(spec("box", bundle));
    EXPECT_TRUE(pid) << pid.error().to_string();
    return pid.value_or(0);
  }
  static double cpus_used(pid_t pid, int ms) {
    const auto before = read_usage(pid).value().cpu_ns;
    const int64_t began_us = monotonic_us();
    std::this_thread::sleep_for(std::chrono::milliseconds(ms));
    return static_cast<double>(read_usage(pid).value().cpu_ns - before) / 1000.0 /
           static_cast<double>(monotonic_us() - began_us);
  }
};

TEST_F(FreezerTest, FreezesAndThawsAHundredTimes) {
  const pid_t pid = run_busy(2);
  ASSERT_GT(pid, 0);
  auto freezer = Freezer::open(pid);
  ASSERT_TRUE(freezer) << freezer.error().to_string();
  std::vector<int64_t> frozen_us;
  std::vector<int64_t> thawed_us;
  for (int i = 0; i < 100; ++i) {
    const int64_t began_us = monotonic_us();
    const auto frozen = freezer->freeze();
    const int64_t done_us = monotonic_us();
    ASSERT_TRUE(frozen) << frozen.error().to_string();
    ASSERT_TRUE(freezer->thaw());
    frozen_us.push_back(done_us - began_us);
    thawed_us.push_back(monotonic_us() - done_us);
    std::this_thread::sleep_for(std::chrono::milliseconds(3));
  }
  std::sort(frozen_us.begin(), frozen_us.end());
  std::sort(thawed_us.begin(), thawed_us.end());
  std::printf("freeze (version %d): median %ld us, worst %ld us; thaw: median %ld us, worst %ld us\n",
              freezer->version2() ? 2 : 1, static_cast<long>(frozen_us[50]),
              static_cast<long>(frozen_us.back()), static_cast<long>(thawed_us[50]),
              static_cast<long>(thawed_us.back()));
}

TEST_F(FreezerTest, NothingRunsWhileFrozen) {
  const pid_t pid = run_busy(1);
  ASSERT_GT(pid, 0);
  auto freezer = Freezer::open(pid);
  ASSERT_TRUE(freezer) << freezer.error().to_string();
  ASSERT_TRUE(freezer->freeze());
  EXPECT_EQ(cpus_used(pid, 100), 0.0);
  // runc asks the freezer of the v1 hierarchy where there is one, and else the one that we use.
  const bool only_v2 = ::access("/sys/fs/cgroup/cgroup.controllers", F_OK) == 0;
  EXPECT_EQ(runc_.state("box").value(), only_v2 ? ContainerState::kPaused : ContainerState::kRunning);
  ASSERT_TRUE(freezer->freeze()) << "again is no error";
  ASSERT_TRUE(freezer->thaw());
  ASSERT_TRUE(freezer->thaw()) << "again is no error";
  EXPECT_GT(cpus_used(pid, 200), 0.1);
}

TEST_F(FreezerTest, AFrozenContainerCanBeRemoved) {
  const pid_t pid = run_busy(1);
  ASSERT_GT(pid, 0);
  auto freezer = Freezer::open(pid);
  ASSERT_TRUE(freezer && freezer->freeze());
  const auto removed = runc_.remove("box", true);
  EXPECT_TRUE(removed) << removed.error().to_string();
}

TEST_F(FreezerTest, ListsAllProcesses) {
  const pid_t pid = run_busy(2);
  ASSERT_GT(pid, 0);
  auto freezer = Freezer::open(pid);
  ASSERT_TRUE(freezer) << freezer.error().to_string();
  Result<std::vector<pid_t>> pids;
  for (int i = 0; i < 200 && (!pids || pids->size() < 5); ++i) {
    pids = freezer->processes();
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  ASSERT_TRUE(pids) << pids.error().to_string();
  EXPECT_EQ(pids->size(), 5U);
  EXPECT_TRUE(std::binary_search(pids->begin(), pids->end(), pid));
}

TEST_F(FreezerTest, RefusesWhatIsNobodysOwn) {
  EXPECT_FALSE(Freezer::open(::getpid())) << "it would freeze this very test";
  EXPECT_FALSE(Freezer::open(0x7ffffff));
}

TEST_F(FreezerTest, AThrottleSlowsAndGoes) {
  const pid_t pid = run_busy(1);
  ASSERT_GT(pid, 0);
  ASSERT_TRUE(runc_.update("box", {.memory_bytes = 0, .cpu_millis = 1500}));
  {
    auto throttle = CpuThrottle::open(pid);
    ASSERT_TRUE(throttle) << throttle.error().to_string();
    EXPECT_FALSE(throttle->limit(0));
    EXPECT_FALSE(throttle->limit(100));
    std::this_thread::sleep_for(std::chrono::milliseconds(300));
    ASSERT_TRUE(throttle->limit(50));
    const double usual = throttle->usual_cpus();
    ASSERT_GT(usual, 0.05);
    const double half = cpus_used(pid, 500);
    ASSERT_TRUE(throttle->limit(20));
    const double fifth = cpus_used(pid, 500);
    EXPECT_EQ(throttle->usual_cpus(), usual) << "percent always means of the same";
    std::printf("throttle: usual %.2f processors, at 50%% %.2f, at 20%% %.2f\n", usual, half, fifth);
    EXPECT_LT(half, usual * 0.75);
    EXPECT_LT(fifth, usual * 0.45);
    CpuThrottle moved = *std::move(throttle);
    ASSERT_TRUE(moved.release());
    EXPECT_EQ(read_limits(pid).value().cpu_millis, 1500U);
    ASSERT_TRUE(moved.limit(10));
  }
  EXPECT_EQ(read_limits(pid).value().cpu_millis, 1500U) << "the destructor restores it";
}

TEST_F(FreezerTest, AnUpdateUndoesTheThrottleOfADeadWorker) {
  const pid_t pid = run_busy(1);
  ASSERT_GT(pid, 0);
  const pid_t worker = ::fork();
  if (worker == 0) {
    auto throttle = CpuThrottle::open(pid);
    ::_exit(throttle && throttle->limit(10) ? 0 : 1);  // no destructor runs
  }
  int status = -1;
  ASSERT_EQ(::waitpid(worker, &status, 0), worker);
  ASSERT_EQ(status, 0);
  EXPECT_NE(read_limits(pid).value().cpu_millis, 0U);
  ASSERT_TRUE(runc_.update("box", {}));
  EXPECT_EQ(read_limits(pid).value().cpu_millis, 0U);
}

}  // namespace
}  // namespace godwit::runtime
