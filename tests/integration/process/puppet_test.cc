// Puppets of real children: injection, and that nothing of it shows in the child afterwards.
#include "runtime/process/puppet.h"

#include <gtest/gtest.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/uio.h>

#include <array>
#include <bit>
#include <cstring>
#include <filesystem>
#include <thread>

#include "base/clock.h"
#include "tests/integration/process/victim.h"

namespace godwit::runtime::test {
namespace {

// Spins over vector registers, general registers and thread-local storage, and looks whether they hold.
[[gnu::noinline]] bool registers_hold(uint64_t seed) {
  uint64_t marks[4] = {seed, ~seed, seed * 3, seed * 5};
  uint64_t lanes[2] = {};
  uint64_t a = 0, b = 0;
  asm volatile(
      "movq (%[marks]), %%xmm7\n movq 8(%[marks]), %%xmm15\n mov 16(%[marks]), %%r12\n mov 24(%[marks]), "
      "%%r13\n"
      "mov $20000, %%ecx\n 1: dec %%ecx\n jnz 1b\n"
      "movq %%xmm7, (%[lanes])\n movq %%xmm15, 8(%[lanes])\n mov %%r12, %[a]\n mov %%r13, %[b]\n"
      : [a] "=&r"(a), [b] "=&r"(b)
      : [marks] "r"(marks), [lanes] "r"(lanes)
      : "xmm7", "xmm15", "r12", "r13", "rcx", "memory", "cc");
  return lanes[0] == marks[0] && lanes[1] == marks[1] && a == marks[2] && b == marks[3];
}

void check_oneself(Shared& shared, uint64_t ready) {
  sigset_t blocked;
  ::sigemptyset(&blocked);
  ::sigaddset(&blocked, SIGUSR2);
  ::sigaddset(&blocked, SIGTRAP);
  ::sigprocmask(SIG_SETMASK, &blocked, nullptr);
  while (shared.ready.load() + 1 < ready) ::usleep(100);
  ++shared.ready;
  for (uint64_t i = 1;; ++i) {
    if (!registers_hold(i)) ++shared.failures;
    sigset_t now;
    ::sigprocmask(SIG_SETMASK, nullptr, &now);
    if (::sigismember(&now, SIGUSR2) != 1 || ::sigismember(&now, SIGTRAP) != 1 ||
        ::sigismember(&now, SIGUSR1) != 0)
      ++shared.failures;
    ++shared.rounds;
  }
}

void check_alone(Shared& shared) {
  check_oneself(shared, 1);
}

std::unique_ptr<Puppet> hold(pid_t pid) {
  auto puppet = Puppet::seize(pid);
  EXPECT_TRUE(puppet.has_value()) << puppet.error().to_string();
  const auto stopped = (*puppet)->wait_stopped();
  EXPECT_TRUE(stopped.has_value()) << stopped.error().to_string();
  return *std::move(puppet);
}

// The leader first.
std::vector<std::unique_ptr<Puppet>> hold_threads(pid_t pid) {
  std::vector<std::unique_ptr<Puppet>> puppets;
  for (const auto& entry : std::filesystem::directory_iterator("/proc/" + std::to_string(pid) + "/task"))
    puppets.push_back(hold(std::stoi(entry.path().filename())));
  return puppets;
}

void expect_ok(const Result<void>& result) {
  EXPECT_TRUE(result.has_value()) << result.error().to_string();
}

TEST(Puppet, RunsABatchAndLeavesNoTrace) {
  Victim victim(check_alone);
  ASSERT_TRUE(victim.wait_ready());
  Scratch scratch;
  for (int i = 0; i < 200; ++i) {
    auto puppet = hold(victim.pid());
    if (scratch.valid()) {
      puppet->adopt_scratch(scratch);
    } else {
      expect_ok(puppet->make_scratch());
      scratch = puppet->scratch();
    }
    CallBatch batch;
    const auto name = batch.room(16);
    const size_t pid = batch.call(SYS_getpid, {});
    batch.call(SYS_prctl, {PR_GET_NAME, name});
    const size_t bad = batch.call_may_fail(SYS_close, {-1});
    expect_ok(puppet->run(batch));
    EXPECT_EQ(batch.result(pid), victim.pid());
    EXPECT_EQ(batch.result(bad), -EBADF);
    EXPECT_STREQ(std::bit_cast<const char*>(batch.bytes(name).data()), "puppet_test");
    expect_ok(puppet->release());
  }
  auto puppet = hold(victim.pid());
  puppet->adopt_scratch(scratch);
  expect_ok(puppet->drop_scratch());
  expect_ok(puppet->release());
  EXPECT_TRUE(victim.runs());
  EXPECT_EQ(victim.shared().failures, 0U);
}

TEST(Puppet, CutsBatchesThatAreTooLarge) {
  Victim victim(check_alone);
  ASSERT_TRUE(victim.wait_ready());
  auto puppet = hold(victim.pid());
  expect_ok(puppet->make_scratch(1));
  CallBatch batch;
  std::vector<CallBatch::Place> places;
  for (int i = 0; i < 1000; ++i) {
    const auto text = batch.text("name" + std::to_string(i));
    batch.call(SYS_prctl, {PR_SET_NAME, text});
    places.push_back(batch.room(512));
    batch.call(SYS_prctl, {PR_GET_NAME, places.back()});
  }
  expect_ok(puppet->run(batch));
  for (int i = 0; i < 1000; ++i)
    EXPECT_STREQ(std::bit_cast<const char*>(batch.bytes(places[static_cast<size_t>(i)]).data()),
                 ("name" + std::to_string(i)).c_str());
  expect_ok(puppet->release());
}

TEST(Puppet, StopsAtTheFirstFailureAndNamesIt) {
  Victim victim(check_alone);
  ASSERT_TRUE(victim.wait_ready());
  auto puppet = hold(victim.pid());
  expect_ok(puppet->make_scratch());
  CallBatch batch;
  batch.call(SYS_getpid, {});
  batch.call(SYS_close, {-1}, "close the impossible");
  const size_t never = batch.call(SYS_prctl, {PR_SET_DUMPABLE, 0});
  const auto result = puppet->run(batch);
  ASSERT_FALSE(result.has_value());
  EXPECT_EQ(result.error().code, EBADF);
  EXPECT_EQ(result.error().operation, "close the impossible");
  EXPECT_EQ(batch.result(never), -ECANCELED);
  EXPECT_EQ(puppet->call(SYS_prctl, {PR_GET_DUMPABLE}).value_or(-1), 1);
}

TEST(Puppet, FollowsLinksBetweenPlaces) {
  Victim victim([](Shared& shared) {
    shared.ready = 1;
    for (;;) ::pause();
  });
  ASSERT_TRUE(victim.wait_ready());
  auto puppet = hold(victim.pid());
  expect_ok(puppet->make_scratch());
  CallBatch batch;
  int pipe_fds[2] = {};
  ASSERT_EQ(::pipe(pipe_fds), 0);
  const auto fds = batch.room(8);
  batch.call(SYS_pipe2, {fds, 0});
  expect_ok(puppet->run(batch));
  const auto numbers = batch.read<std::array<int, 2>>(fds);
  CallBatch transfer;
  const auto payload = transfer.text("godwit");
  const auto out = transfer.room(7);
  const auto vectors = transfer.object(std::array<iovec, 2>{iovec{nullptr, 7}, iovec{nullptr, 7}});
  transfer.link(vectors, 0, payload);
  transfer.link(vectors, sizeof(iovec), out);
  transfer.call(SYS_writev, {numbers[1], vectors, 1});
  transfer.call(SYS_read, {numbers[0], out, 7});
  expect_ok(puppet->run(transfer));
  EXPECT_STREQ(std::bit_cast<const char*>(transfer.bytes(out).data()), "godwit");
  ::close(pipe_fds[0]);
  ::close(pipe_fds[1]);
}

// Interrupted calls of every kind of restart go on as if nothing had happened.
TEST(Puppet, InterruptedCallsGoOn) {
  Victim sleeper([](Shared& shared) {
    shared.ready = 1;
    const int64_t before = monotonic_ns();
    timespec half{.tv_sec = 0, .tv_nsec = 500'000'000};
    if (::nanosleep(&half, nullptr) != 0) ++shared.failures;
    shared.value[0] = static_cast<uint64_t>(monotonic_ns() - before);
    ++shared.rounds;
    for (;;) ::pause();
  });
  int ends[2] = {};
  ASSERT_EQ(::pipe(ends), 0);
  Victim reader([&](Shared& shared) {
    shared.ready = 1;
    char byte = 0;
    if (::read(ends[0], &byte, 1) != 1 || byte != 'x') ++shared.failures;
    ++shared.rounds;
    for (;;) ::pause();
  });
  ASSERT_TRUE(sleeper.wait_ready());
  ASSERT_TRUE(reader.wait_ready());
  ::usleep(50'000);
  for (Victim* victim : {&sleeper, &reader}) {
    auto puppet = hold(victim->pid());
    expect_ok(puppet->make_scratch());
    EXPECT_EQ(puppet->call(SYS_getpid, {}).value_or(-1), victim->pid());
    expect_ok(puppet->drop_scratch());  // ends at the exit of a system call: the hardest way back
    expect_ok(puppet->release());
  }
  ASSERT_EQ(::write(ends[1], "x", 1), 1);
  ASSERT_TRUE(reader.wait_for(reader.shared().rounds, 1));
  ASSERT_TRUE(sleeper.wait_for(sleeper.shared().rounds, 1));
  EXPECT_EQ(reader.shared().failures, 0U);
  EXPECT_EQ(sleeper.shared().failures, 0U);
  EXPECT_GE(sleeper.shared().value[0], 500'000'000U);
  EXPECT_LT(sleeper.shared().value[0], 800'000'000U);
  ::close(ends[0]);
  ::close(ends[1]);
}

std::atomic<uint64_t>* urgent_seen = nullptr;

// A SIGURG of somebody else is not mistaken for the end of a batch, and is not lost.
TEST(Puppet, ForeignSignalsAreKept) {
  Victim victim([](Shared& shared) {
    urgent_seen = &shared.value[0];
    struct sigaction action {};
    action.sa_sigaction = [](int, siginfo_t* information, void*) {
      *urgent_seen = static_cast<uint64_t>(information->si_value.sival_int);
    };
    action.sa_flags = SA_SIGINFO;
    ::sigaction(SIGURG, &action, nullptr);
    sigset_t set;
    ::sigemptyset(&set);
    ::sigaddset(&set, SIGURG);
    ::sigprocmask(SIG_BLOCK, &set, nullptr);
    shared.ready = 1;
    while (shared.asked == 0) ::usleep(1000);
    ::sigprocmask(SIG_UNBLOCK, &set, nullptr);
    ++shared.rounds;
    for (;;) ::pause();
  });
  ASSERT_TRUE(victim.wait_ready());
  ASSERT_EQ(::sigqueue(victim.pid(), SIGURG, sigval{.sival_int = 77}), 0);
  {
    auto puppet = hold(victim.pid());
    expect_ok(puppet->make_scratch());
    EXPECT_EQ(puppet->call(SYS_getpid, {}).value_or(-1), victim.pid());
    expect_ok(puppet->release());
  }
  EXPECT_EQ(victim.shared().value[0], 0U) << "it was blocked";
  victim.shared().asked = 1;
  ASSERT_TRUE(victim.wait_for(victim.shared().rounds, 1));
  EXPECT_EQ(victim.shared().value[0], 77U);
}

// More threads than fit beside each other, and more calls than fit into one's part.
TEST(Puppet, RunsBatchesOfManyThreadsTogether) {
  constexpr int kThreads = 19;
  Victim victim([](Shared& shared) {
    std::vector<std::thread> threads;
    for (int i = 1; i < kThreads; ++i)
      threads.emplace_back([&, i] {
        ++shared.ready;
        for (uint64_t round = 1;; ++round)
          if (!registers_hold(round * static_cast<uint64_t>(i))) ++shared.failures;
      });
    check_oneself(shared, kThreads);
  });
  ASSERT_TRUE(victim.wait_ready(kThreads));
  const auto puppets = hold_threads(victim.pid());
  ASSERT_EQ(puppets.size(), size_t{kThreads});
  expect_ok(puppets.front()->make_scratch());
  for (auto& puppet : puppets) puppet->adopt_scratch(puppets.front()->scratch());
  std::vector<Injection> injections;
  std::vector<CallBatch::Place> names;
  for (size_t i = 0; i < puppets.size(); ++i) {
    Injection injection{.puppet = puppets[i].get(), .batch = {}};
    const auto name = injection.batch.text("thread" + std::to_string(i));
    for (int k = 0; k < (i == 5 ? 400 : 3); ++k) injection.batch.call(SYS_gettid, {});
    injection.batch.call(SYS_prctl, {PR_SET_NAME, name});
    names.push_back(injection.batch.room(16));
    injection.batch.call(SYS_prctl, {PR_GET_NAME, names.back()});
    injections.push_back(std::move(injection));
  }
  expect_ok(Puppet::run_together(injections));
  for (size_t i = 0; i < puppets.size(); ++i) {
    const CallBatch& batch = injections[i].batch;
    EXPECT_EQ(batch.result(batch.size() - 3), puppets[i]->tid());
    EXPECT_STREQ(std::bit_cast<const char*>(batch.bytes(names[i]).data()),
                 ("thread" + std::to_string(i)).c_str());
  }
  // One that fails is named, and all others have been waited for.
  for (auto& injection : injections) injection.batch = {};
  injections[3].batch.call(SYS_close, {-1}, "close the impossible");
  injections[3].whose = "pid 7";
  for (const size_t i : {2, 4}) injections[i].batch.call(SYS_gettid, {});
  const auto failed = Puppet::run_together(injections);
  ASSERT_FALSE(failed.has_value());
  EXPECT_EQ(failed.error().operation, "close the impossible");
  EXPECT_TRUE(failed.error().object.ends_with("(pid 7)")) << failed.error().object;
  for (const size_t i : {2, 4}) EXPECT_EQ(injections[i].batch.result(0), puppets[i]->tid());
  for (auto& puppet : puppets) expect_ok(puppet->release());
  EXPECT_TRUE(victim.runs());
  EXPECT_EQ(victim.shared().failures, 0U);
}

// Its leader cannot be waited for before its other threads have been, and all of them are ours to wait for.
TEST(Puppet, AProcessThatIsKilledMeanwhileIsNoticed) {
  constexpr int kThreads = 4;
  Victim victim([](Shared& shared) {
    std::vector<std::thread> threads;
    for (int i = 1; i < kThreads; ++i)
      threads.emplace_back([&] {
        ++shared.ready;
        for (;;) ::pause();
      });
    check_oneself(shared, kThreads);
  });
  ASSERT_TRUE(victim.wait_ready(kThreads));
  const auto puppets = hold_threads(victim.pid());
  ASSERT_EQ(puppets.size(), size_t{kThreads});
  ASSERT_EQ(puppets.front()->tid(), victim.pid());
  expect_ok(puppets.front()->make_scratch());
  std::thread killer([&] {
    ::usleep(20'000);
    ::kill(victim.pid(), SIGKILL);
  });
  const auto outcome = puppets.front()->call(SYS_pause, {});
  killer.join();
  ASSERT_FALSE(outcome.has_value());
  EXPECT_EQ(outcome.error().code, ESRCH) << outcome.error().to_string();
  for (size_t i = 1; i < puppets.size(); ++i) {
    EXPECT_FALSE(puppets[i]->call(SYS_getpid, {}).has_value());
    puppets[i]->abandon();
    EXPECT_EQ(::waitpid(puppets[i]->tid(), nullptr, __WALL), puppets[i]->tid());
  }
}

// The init of a pid namespace does not end before the others in it have been waited for, which is ours to do.
TEST(Puppet, AnInitThatIsKilledMeanwhileIsNoticed) {
  Victim victim([](Shared& shared) {
    ::signal(SIGCHLD, SIG_IGN);  // nobody but the tracer has to wait for them
    if (::unshare(CLONE_NEWPID) != 0) ::_exit(1);
    for (size_t i = 0; i < 2; ++i) {
      const pid_t child = ::fork();
      if (child == 0) {
        die_with_parent();
        for (;;) ::pause();
      }
      shared.value[i] = static_cast<uint64_t>(child);
    }
    shared.ready = 1;
    for (;;) ::pause();
  });
  ASSERT_TRUE(victim.wait_ready());
  const auto init = hold(static_cast<pid_t>(victim.shared().value[0]));
  const auto member = hold(static_cast<pid_t>(victim.shared().value[1]));
  expect_ok(init->make_scratch());
  std::thread killer([&] {
    ::usleep(20'000);
    ::kill(init->tid(), SIGKILL);
  });
  const auto outcome = init->call(SYS_pause, {});
  killer.join();
  ASSERT_FALSE(outcome.has_value());
  EXPECT_EQ(outcome.error().code, ESRCH) << outcome.error().to_string();
  EXPECT_EQ(::waitpid(init->tid(), nullptr, __WALL | WNOHANG), 0) << "it had ended, not only begun to";
  member->abandon();
  EXPECT_EQ(::waitpid(member->tid(), nullptr, __WALL), member->tid());
  EXPECT_EQ(::waitpid(init->tid(), nullptr, __WALL), init->tid());
}

TEST(Puppet, AThreadWhoseStateCannotBeReadIsNotTakenForGone) {
  Victim victim(check_alone);
  ASSERT_TRUE(victim.wait_ready());
  const auto puppet = hold(victim.pid());
  expect_ok(puppet->make_scratch());
  rlimit limit{};
  ASSERT_EQ(::getrlimit(RLIMIT_NOFILE, &limit), 0);
  const rlimit none{.rlim_cur = 0, .rlim_max = limit.rlim_max};
  ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &none), 0);
  const auto outcome = puppet->call(SYS_poll, {0, 0, 50});  // 50 ms: longer than the wait's first pause
  ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &limit), 0);
  ASSERT_TRUE(outcome.has_value()) << outcome.error().to_string();
  EXPECT_EQ(*outcome, 0);
}

// The tracer is killed again and again, at moments nobody chose, while it injects.
TEST(Puppet, ATracerThatDiesLeavesTheThreadRunning) {
  Victim victim(check_alone);
  ASSERT_TRUE(victim.wait_ready());
  Scratch scratch;
  {
    auto puppet = hold(victim.pid());
    expect_ok(puppet->make_scratch());
    scratch = puppet->scratch();
  }
  for (useconds_t i = 0; i < 150; ++i) {
    Victim tracer([&](Shared& shared) {
      auto puppet = Puppet::seize(victim.pid());
      if (!puppet.has_value() || !(*puppet)->wait_stopped().has_value()) ::_exit(1);
      (*puppet)->adopt_scratch(scratch);
      shared.ready = 1;
      for (;;) {
        CallBatch batch;
        for (int k = 0; k < 64; ++k) batch.call(SYS_getpid, {});
        if (!(*puppet)->run(batch).has_value()) ::_exit(2);
        ++shared.rounds;
      }
    });
    ASSERT_TRUE(tracer.wait_ready());
    ::usleep(500 + i * 37 % 1000);
    ASSERT_EQ(::kill(tracer.pid(), SIGKILL), 0);
    ASSERT_EQ(::waitpid(tracer.pid(), nullptr, __WALL), tracer.pid());
    ASSERT_TRUE(victim.runs()) << "after tracer " << i;
    ASSERT_EQ(::waitpid(victim.pid(), nullptr, WNOHANG), 0) << "after tracer " << i;
  }
  EXPECT_EQ(victim.shared().failures, 0U);
}

TEST(Puppet, AdoptsWhatItMakesItsThreadFork) {
  Victim victim(check_alone);
  ASSERT_TRUE(victim.wait_ready());
  auto seized = Puppet::seize(victim.pid(), PTRACE_O_TRACEFORK | PTRACE_O_TRACECLONE);
  ASSERT_TRUE(seized.has_value());
  auto& puppet = **seized;
  expect_ok(puppet.wait_stopped());
  expect_ok(puppet.make_scratch());
  const auto child = puppet.call(SYS_clone, {SIGCHLD, 0, 0, 0, 0}, "clone");
  ASSERT_TRUE(child.has_value()) << child.error().to_string();
  const auto newborn = puppet.take_newborn();
  ASSERT_EQ(newborn.size(), 1U);
  EXPECT_EQ(newborn[0], *child);
  auto born = Puppet::adopt(newborn[0], PTRACE_O_EXITKILL);
  expect_ok(born->wait_stopped());
  born->adopt_scratch(puppet.scratch());
  EXPECT_EQ(born->call(SYS_getppid, {}).value_or(-1), victim.pid());
  ::kill(newborn[0], SIGKILL);
}

}  // namespace
}  // namespace godwit::runtime::test
