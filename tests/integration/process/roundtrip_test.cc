// A migration on one machine: a program in a pid namespace of its own is captured, rebuilt from a placeholder
// in another one, and goes on checking itself there.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>

#include "base/clock.h"
#include "base/fd.h"
#include "runtime/container/freezer.h"
#include "runtime/process/capture.h"
#include "runtime/process/replica.h"
#include "tests/integration/process/roundtrip_report.h"
#include "tests/integration/process/roundtrip_rig.h"

namespace godwit::runtime::test {
namespace {

struct Times {
  int64_t tree_us = 0, live_us = 0, unchanged_us = 0, freeze_us = 0, memory_us = 0, capture_us = 0,
          complete_us = 0, hold_us = 0, run_us = 0;
};

class Roundtrip : public ::testing::Test {
 protected:
  void SetUp() override {
    report_path_ = "/tmp/godwit-roundtrip-" + std::to_string(::getpid());
    const int file = ::open(report_path_.c_str(), O_RDWR | O_CREAT | O_TRUNC, 0666);
    ::fchmod(file, 0666);
    report_file_ = Fd(file);
  }
  void TearDown() override {
    for (const pid_t pid : {source_, target_}) {
      if (pid <= 0) continue;
      ::kill(pid, SIGKILL);
      ::waitpid(pid, nullptr, __WALL);
    }
    ::unlink(report_path_.c_str());
  }

  [[nodiscard]] Report report() const {
    Report report;
    static_cast<void>(::pread(report_file_.get(), &report, sizeof report, 0));
    return report;
  }
  bool wait_rounds(uint64_t more) const {
    const uint64_t before = report().rounds;
    for (int i = 0; i < 5000; ++i) {
      if (report().rounds >= before + more) return true;
      ::usleep(2000);
    }
    return false;
  }

  void start_source() {
    source_ = start_init(source_cgroup_, [&] {
      const int none = ::open("/dev/null", O_RDWR);
      for (int fd : {0, 1, 2}) ::dup2(none, fd);
      ::syscall(SYS_close_range, 3, ~0U, 0);
      ::setenv("MALLOC_ARENA_MAX", "1", 1);
      ::execl(ROUNDTRIP_VICTIM, "roundtrip_victim", report_path_.c_str(), nullptr);
    });
    ASSERT_GT(source_, 0);
    ASSERT_TRUE(wait_rounds(30));
  }

  void start_placeholder(Fd& channel) {
    int ends[2];
    ASSERT_EQ(::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends), 0);
    channel = Fd(ends[0]);
    target_ = start_init(target_cgroup_, [&] {
      ::dup2(ends[1], 4);
      ::syscall(SYS_close_range, 5, ~0U, 0);
      const char hello = 'p';
      if (::write(4, &hello, 1) != 1) return;
      for (;;) ::pause();
    });
    ::close(ends[1]);
    ASSERT_GT(target_, 0);
    char hello = 0;
    ASSERT_EQ(::read(channel.get(), &hello, 1), 1);
  }

  std::string report_path_;
  Fd report_file_;
  Cgroup source_cgroup_, target_cgroup_;
  pid_t source_ = 0, target_ = 0;
};

// What a snapshot can look like that was taken while the process was in the midst of an execve(2).
model::Snapshot without_layout(model::Snapshot snapshot) {
  for (auto& process : *snapshot.mutable_processes()) {
    auto& memory = *process.mutable_memory();
    memory.set_start_code(0);
    memory.set_end_code(0);
    memory.set_start_data(0);
    memory.set_end_data(0);
  }
  return snapshot;
}

model::Snapshot without_children(model::Snapshot snapshot) {
  auto& processes = *snapshot.mutable_processes();
  for (int i = processes.size() - 1; i >= 0; --i) {
    if (processes[i].pid() != 1) processes.DeleteSubrange(i, 1);
  }
  return snapshot;
}

int64_t since(int64_t& mark) {
  const int64_t now = monotonic_us();
  return now - std::exchange(mark, now);
}

// Of the whole process.
bool has_huge_pages(pid_t pid) {
  const auto maps = read_file("/proc/" + std::to_string(pid) + "/smaps_rollup");
  const size_t at = maps ? maps->find("AnonHugePages:") : std::string::npos;
  return at == std::string::npos || std::strtoull(maps->c_str() + at + 14, nullptr, 10) != 0;
}

TEST_F(Roundtrip, GoesOnElsewhere) {
  start_source();
  Fd channel;
  start_placeholder(channel);
  auto source_freezer = Freezer::open(source_);
  auto target_freezer = Freezer::open(target_);
  ASSERT_TRUE(source_freezer.has_value() && target_freezer.has_value());
  CaptureOptions options{.init_pid = source_,
                         .log_path = "/dev/null/none",
                         .freeze_cgroup = [&] { return source_freezer->freeze(); },
                         .thaw_cgroup = [&] { return source_freezer->thaw(); },
                         .list_cgroup = [&] { return source_freezer->processes(); }};
  auto capture = Capture::open(std::move(options));
  ASSERT_TRUE(capture.has_value()) << capture.error().to_string();
  ReplicaOptions replica_options{
      .placeholder_pid = target_, .channel = std::move(channel), .placeholder_channel_fd = 4, .log_path = {}};
  auto replica = Replica::adopt(std::move(replica_options));
  ASSERT_TRUE(replica.has_value()) << replica.error().to_string();
  EXPECT_DONE((*replica)->enter_time_namespace(3'600'000'000'000, 3'600'000'000'000));

  Times times;
  auto live = (*capture)->snapshot_live();
  ASSERT_TRUE(live.has_value()) << live.error().to_string();
  int64_t mark = monotonic_us();
  // A child that comes later begins with the executable of its parent, and in the midst of an execve(2).
  EXPECT_DONE((*replica)->reconcile_memory(without_children(*live)));
  EXPECT_DONE((*replica)->reconcile_memory(without_layout(*live)));
  EXPECT_DONE((*replica)->reconcile_memory(*live));
  times.tree_us = since(mark);
  EXPECT_DONE((*replica)->reconcile(*live));
  times.live_us = since(mark);
  EXPECT_DONE((*replica)->reconcile_memory(*live));
  times.unchanged_us = since(mark);

  // On a busy machine a thread may not get the processor in time; then it is to be tried again.
  auto stopped = (*capture)->freeze();
  for (int tries = 1; !stopped && stopped.error().code == EAGAIN && tries < 50; ++tries) {
    ASSERT_TRUE((*capture)->thaw());
    stopped = (*capture)->freeze();
  }
  ASSERT_TRUE(stopped) << stopped.error().to_string();
  times.freeze_us = since(mark);
  auto memory = (*capture)->snapshot_frozen_memory();
  ASSERT_TRUE(memory.has_value()) << memory.error().to_string();
  mark = monotonic_us();
  EXPECT_DONE((*replica)->reconcile_memory(*memory));
  times.memory_us = since(mark);
  EXPECT_DONE(copy_pages(**capture, **replica, *memory));
  EXPECT_FALSE(has_huge_pages(target_)) << "though the process must not have any";
  mark = monotonic_us();
  auto frozen = (*capture)->snapshot_frozen();
  ASSERT_TRUE(frozen.has_value()) << frozen.error().to_string();
  times.capture_us = since(mark);
  EXPECT_DONE((*replica)->reconcile(*frozen));
  times.complete_us = since(mark);
  EXPECT_DONE(target_freezer->freeze());
  mark = monotonic_us();
  EXPECT_DONE((*replica)->hold());
  times.hold_us = since(mark);

  // The commit: the source ends here. Its threads are let go first: of a traced init none dies before the
  // others have been waited for.
  const Report before = report();
  capture->reset();
  ::kill(source_, SIGKILL);
  ::waitpid(source_, nullptr, __WALL);
  source_ = 0;
  mark = monotonic_us();
  for (const Error& fault : (*replica)->run()) ADD_FAILURE() << fault.to_string();
  times.run_us = since(mark);
  EXPECT_DONE(target_freezer->thaw());

  EXPECT_TRUE(wait_rounds(50)) << "the replica does not run";
  const Report after = report();
  EXPECT_EQ(after.oddities, before.oddities);
  EXPECT_EQ(after.oddities, 0U);
  for (size_t i = 0; i < 8; ++i) EXPECT_EQ(after.failures[i], i == 3 ? 3U : 0U) << "kind " << i;
  for (size_t i = 0; i < 3; ++i) EXPECT_GT(after.thread_rounds[i], before.thread_rounds[i]) << "thread " << i;
  EXPECT_GT(after.posix_ticks, before.posix_ticks + 3);
  EXPECT_GT(after.interval_ticks, before.interval_ticks + 3);
  EXPECT_GT(after.child_rounds, before.child_rounds);
  EXPECT_EQ(after.child_failures, 0U);
  std::printf(
      "us: grow %ld, live %ld, unchanged %ld | freeze %ld, memory %ld, capture %ld, complete %ld, "
      "hold %ld, run %ld\n",
      times.tree_us, times.live_us, times.unchanged_us, times.freeze_us, times.memory_us, times.capture_us,
      times.complete_us, times.hold_us, times.run_us);
}

}  // namespace
}  // namespace godwit::runtime::test
