// Capture of real processes that check themselves all the time. Without a container: ptrace alone stops them.
#include "runtime/process/capture.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sched.h>
#include <sys/ipc.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/shm.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/user.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <iostream>
#include <thread>

#include "base/clock.h"
#include "base/fd.h"
#include "tests/integration/process/victim.h"

namespace godwit::runtime::test {
namespace {

constexpr int kThreads = 4;  // beside the leader
thread_local uint64_t own_mark = 0;

// Leaves the descriptors of the test runner and its session behind.
void settle() {
  ::setsid();
  ::close_range(0, ~0U, 0);
  for (int i = 0; i < 3; ++i) ::open("/dev/null", O_RDWR);
}

void check(Shared& shared, uint64_t mark) {
  own_mark = mark;
  double sum = static_cast<double>(mark);
  int64_t last = monotonic_ns();
  for (;;) {
    if (own_mark != mark || sum != static_cast<double>(mark)) ++shared.failures;
    for (int k = 0; k < 1000; ++k) sum = sum * 2.0 / 2.0;
    const int64_t now = monotonic_ns();
    if (now < last) ++shared.failures;
    last = now;
    ++shared.rounds;
    if (mark % 2 == 0) ::usleep(200);
    if (mark == 1) ::sched_yield();
  }
}

void many_threads(Shared& shared) {
  settle();
  for (uint64_t i = 1; i <= kThreads; ++i) std::thread([&shared, i] { check(shared, i); }).detach();
  if (::fork() == 0) {
    die_with_parent();
    check(shared, 7);
  }
  shared.ready = 1;
  check(shared, 100);
}

std::unique_ptr<Capture> capture(const Victim& victim) {
  CaptureOptions options;
  options.init_pid = victim.pid();
  auto opened = Capture::open(std::move(options));
  EXPECT_TRUE(opened.has_value()) << opened.error().to_string();
  return *std::move(opened);
}

void expect_ok(const Result<void>& result) {
  EXPECT_TRUE(result.has_value()) << result.error().to_string();
}

int64_t median(std::vector<int64_t>& values) {
  std::ranges::sort(values);
  return values[values.size() / 2];
}

TEST(Capture, FreezesAndThawsAHundredTimesUnnoticed) {
  Victim victim(many_threads);
  ASSERT_TRUE(victim.wait_ready());
  auto session = capture(victim);
  std::vector<int64_t> freezes, snapshots;
  for (int i = 0; i < 100; ++i) {
    if (i % 10 == 0) {
      const auto live = session->snapshot_live();
      ASSERT_TRUE(live.has_value()) << live.error().to_string();
      EXPECT_EQ(live->processes_size(), 2);
      expect_ok(session->visit_new_processes([](const CapturedProcess&, Puppet&) { return Result<void>(); }));
    }
    const int64_t start = monotonic_us();
    const auto frozen = session->freeze();
    ASSERT_TRUE(frozen.has_value()) << frozen.error().to_string();
    const int64_t stopped = monotonic_us();
    const auto snapshot = session->snapshot_frozen();
    const int64_t taken = monotonic_us();
    ASSERT_TRUE(snapshot.has_value()) << snapshot.error().to_string();
    ASSERT_EQ(snapshot->processes_size(), 2);
    EXPECT_EQ(snapshot->processes(0).threads_size(), kThreads + 1);
    const uint64_t rounds = victim.shared().rounds;
    EXPECT_EQ(victim.shared().rounds, rounds) << "somebody runs";
    expect_ok(session->thaw());
    freezes.push_back(stopped - start);
    snapshots.push_back(taken - stopped);
    ASSERT_TRUE(victim.runs());
  }
  EXPECT_EQ(victim.shared().failures, 0U);
  std::cout << "freeze " << median(freezes) << " us, snapshot_frozen " << median(snapshots)
            << " us (medians, " << kThreads + 2 << " threads in 2 processes)\n";
}

void on_signal(int) {}

uint64_t resident_pages(pid_t pid) {
  const auto text = read_file("/proc/" + std::to_string(pid) + "/statm");
  if (!text.has_value()) return 0;
  return std::strtoull(text->c_str() + text->find(' '), nullptr, 10);
}

TEST(Capture, DismantledProcessesHoldNoMemoryAndDoNotRun) {
  constexpr size_t kBytes = size_t{64} << 20;
  Victim victim([](Shared& shared) {
    void* memory =
        ::mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
    if (memory == MAP_FAILED) ::_exit(1);
    many_threads(shared);
  });
  ASSERT_TRUE(victim.wait_ready());
  auto session = capture(victim);
  EXPECT_FALSE(session->dismantle().has_value()) << "it ran";
  expect_ok(session->freeze());
  ASSERT_TRUE(session->snapshot_frozen().has_value());
  ASSERT_GT(resident_pages(victim.pid()), kBytes / 4096);
  const uint64_t rounds = victim.shared().rounds;
  expect_ok(session->dismantle());
  EXPECT_LT(resident_pages(victim.pid()), kBytes / 4096 / 4);
  EXPECT_EQ(victim.shared().rounds, rounds) << "somebody runs";
  for (const CapturedProcess& process : session->processes()) ::kill(process.host_pid, SIGKILL);
  while (::waitpid(-1, nullptr, __WALL) > 0) {  // the tracer's part
  }
}

TEST(Capture, ShowsWhatTheProcessSetUp) {
  Victim victim([](Shared& shared) {
    settle();
    struct sigaction action {};
    action.sa_handler = on_signal;
    action.sa_flags = SA_RESTART;
    ::sigaddset(&action.sa_mask, SIGHUP);
    ::sigaction(SIGUSR1, &action, nullptr);
    sigset_t blocked;
    ::sigemptyset(&blocked);
    ::sigaddset(&blocked, SIGUSR2);
    ::sigprocmask(SIG_SETMASK, &blocked, nullptr);
    ::sigqueue(::getpid(), SIGUSR2, sigval{.sival_int = 99});
    const itimerval interval{.it_interval = {.tv_sec = 50, .tv_usec = 0},
                             .it_value = {.tv_sec = 100, .tv_usec = 0}};
    ::setitimer(ITIMER_REAL, &interval, nullptr);
    timer_t timer = nullptr;
    sigevent event{};
    event.sigev_notify = SIGEV_SIGNAL;
    event.sigev_signo = SIGUSR1;
    event.sigev_value.sival_int = 1234;
    ::timer_create(CLOCK_MONOTONIC, &event, &timer);
    const itimerspec due{.it_interval = {.tv_sec = 7, .tv_nsec = 0},
                         .it_value = {.tv_sec = 70, .tv_nsec = 0}};
    ::timer_settime(timer, 0, &due, nullptr);
    ::prctl(PR_SET_NAME, "evil) R 1\n(x");
    ::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    ::umask(0123);
    void* memory = ::mmap(nullptr, 12288, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    std::memcpy(memory, "shared", 7);
    shared.value[0] = std::bit_cast<uint64_t>(memory);
    [[maybe_unused]] const int dropped = ::setresgid(1001, 1002, 1003) | ::setresuid(2001, 2002, 2003);
    shared.ready = 1;
    for (;;) ::pause();
  });
  ASSERT_TRUE(victim.wait_ready());
  auto session = capture(victim);
  expect_ok(session->freeze());
  const auto snapshot = session->snapshot_frozen();
  ASSERT_TRUE(snapshot.has_value()) << snapshot.error().to_string();
  const auto& process = snapshot->processes(0);
  const auto& thread = process.threads(0);
  EXPECT_EQ(thread.name(), "evil) R 1\n(x");
  EXPECT_EQ(process.limits_size(), RLIM_NLIMITS);
  EXPECT_EQ(process.umask(), 0123U);
  const auto action =
      std::ranges::find(process.signal_actions(), uint32_t{SIGUSR1}, &model::SignalAction::signal);
  ASSERT_NE(action, process.signal_actions().end());
  EXPECT_EQ(action->handler(), std::bit_cast<uint64_t>(&on_signal));
  EXPECT_EQ(action->mask(), uint64_t{1} << (SIGHUP - 1));
  EXPECT_EQ(thread.signal_mask(), uint64_t{1} << (SIGUSR2 - 1));
  ASSERT_EQ(process.pending_signals_size(), 1);
  siginfo_t pending{};
  std::memcpy(&pending, process.pending_signals(0).information().data(), sizeof pending);
  EXPECT_EQ(pending.si_signo, SIGUSR2);
  EXPECT_EQ(pending.si_value.sival_int, 99);
  ASSERT_EQ(process.interval_timers_size(), 1);
  EXPECT_EQ(process.interval_timers(0).interval_us(), 50'000'000U);
  ASSERT_EQ(process.posix_timers_size(), 1);
  EXPECT_EQ(process.posix_timers(0).value(), 1234U);
  EXPECT_EQ(process.posix_timers(0).interval_ns(), 7'000'000'000U);
  EXPECT_GT(process.posix_timers(0).value_ns(), 50'000'000'000U);
  EXPECT_EQ(thread.credentials().uid(), 2001U);
  EXPECT_EQ(thread.credentials().sgid(), 1003U);
  EXPECT_TRUE(thread.credentials().no_new_privileges());
  EXPECT_EQ(thread.general_registers().size(), sizeof(user_regs_struct));
  user_regs_struct registers{};
  std::memcpy(&registers, thread.general_registers().data(), sizeof registers);
  EXPECT_EQ(registers.rax, uint64_t{SYS_pause});
  EXPECT_EQ(static_cast<int64_t>(registers.orig_rax), -1);
  const auto mapping =
      std::ranges::find(process.memory().mappings(), victim.shared().value[0].load(), &model::Mapping::start);
  ASSERT_NE(mapping, process.memory().mappings().end());
  const auto fd = session->shared_memory_fd(mapping->shared_memory());
  ASSERT_TRUE(fd.has_value()) << fd.error().to_string();
  char text[7] = {};
  EXPECT_EQ(::pread(*fd, text, sizeof text, 0), 7);
  EXPECT_STREQ(text, "shared");
  for (const auto& one : process.memory().mappings())
    EXPECT_FALSE(one.start() % 4096 != 0 || one.start() >= one.end());
  expect_ok(session->thaw());
}

bool refuses(Victim& victim, const std::string& object, const std::string& reason) {
  auto session = capture(victim);
  const auto refusals = session->preflight();
  if (!refusals.has_value()) {
    ADD_FAILURE() << refusals.error().to_string();
    return false;
  }
  for (const auto& one : *refusals)
    if (one.object.find(object) != std::string::npos && one.reason.find(reason) != std::string::npos)
      return true;
  for (const auto& one : *refusals) std::cout << "  refused: " << one.object << ": " << one.reason << "\n";
  return false;
}

[[noreturn]] void ready_and_wait(Shared& shared) {
  shared.ready = 1;
  for (;;) ::pause();
}

TEST(Preflight, NamesHostNamespaces) {
  Victim victim(ready_and_wait);
  ASSERT_TRUE(victim.wait_ready());
  EXPECT_TRUE(refuses(victim, "net namespace", "host's own"));
  EXPECT_TRUE(refuses(victim, "pid namespace", "host's own"));
}

TEST(Preflight, NamesZombies) {
  Victim victim([](Shared& shared) {
    if (::fork() == 0) ::_exit(0);
    ready_and_wait(shared);
  });
  ASSERT_TRUE(victim.wait_ready());
  ::usleep(20'000);
  EXPECT_TRUE(refuses(victim, "process", "zombie"));
}

TEST(Preflight, NamesStoppedAndTracedProcesses) {
  Victim victim(ready_and_wait);
  ASSERT_TRUE(victim.wait_ready());
  {
    auto puppet = Puppet::seize(victim.pid());
    ASSERT_TRUE(puppet.has_value());
    expect_ok((*puppet)->wait_stopped());
    EXPECT_TRUE(refuses(victim, "process", "traced by"));
  }
  ::kill(victim.pid(), SIGSTOP);
  ::usleep(20'000);
  EXPECT_TRUE(refuses(victim, "process", "stopped by a signal"));
}

TEST(Preflight, NamesSharedTables) {
  Victim victim([](Shared& shared) {
    const long child = ::syscall(SYS_clone, CLONE_FILES | CLONE_FS | SIGCHLD, 0, 0, 0, 0);
    if (child == 0) {
      die_with_parent();
      for (;;) ::pause();
    }
    ready_and_wait(shared);
  });
  ASSERT_TRUE(victim.wait_ready());
  EXPECT_TRUE(refuses(victim, "descriptor table", "shared with"));
  EXPECT_TRUE(refuses(victim, "working directory", "shared with"));
}

TEST(Preflight, NamesSystemVObjects) {
  Victim victim([](Shared& shared) {
    ::unshare(CLONE_NEWIPC);
    const int id = ::shmget(IPC_PRIVATE, 4096, 0600);
    ::shmat(id, nullptr, 0);
    ready_and_wait(shared);
  });
  ASSERT_TRUE(victim.wait_ready());
  EXPECT_TRUE(refuses(victim, "mapping", "System V"));
  EXPECT_TRUE(refuses(victim, "ipc namespace", "System V"));
}

TEST(Preflight, NamesDeletedAndTmpfsFiles) {
  Victim victim([](Shared& shared) {
    char name[] = "/var/tmp/godwit-test-XXXXXX";
    const int deleted = ::mkstemp(name);
    ::unlink(name);
    if (::ftruncate(deleted, 4096) != 0 ||
        ::mmap(nullptr, 4096, PROT_READ, MAP_PRIVATE, deleted, 0) == MAP_FAILED)
      ::_exit(1);
    ready_and_wait(shared);
  });
  ASSERT_TRUE(victim.wait_ready());
  EXPECT_TRUE(refuses(victim, "mapping", "deleted"));
}

TEST(Preflight, NamesDeadlineScheduling) {
  Victim victim([](Shared& shared) {
    struct {
      uint32_t size, policy;
      uint64_t flags;
      int32_t nice;
      uint32_t priority;
      uint64_t runtime, deadline, period;
    } attributes{.size = 48,
                 .policy = 6,
                 .flags = 0,
                 .nice = 0,
                 .priority = 0,
                 .runtime = 1'000'000,
                 .deadline = 100'000'000,
                 .period = 100'000'000};
    shared.value[0] = static_cast<uint64_t>(::syscall(SYS_sched_setattr, 0, &attributes, 0));
    ready_and_wait(shared);
  });
  ASSERT_TRUE(victim.wait_ready());
  if (victim.shared().value[0] != 0) GTEST_SKIP() << "this host grants no deadline scheduling";
  EXPECT_TRUE(refuses(victim, "thread", "deadline"));
}

}  // namespace
}  // namespace godwit::runtime::test
