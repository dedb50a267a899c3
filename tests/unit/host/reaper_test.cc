#include "engine/host/reaper.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <chrono>
#include <thread>

namespace godwit::engine {
namespace {

using std::chrono::milliseconds;

// A child that runs `body` (only what is allowed after fork in a process with threads) and ends with its
// value.
template <typename Body>
pid_t make_child(Body body) {
  const pid_t pid = ::fork();
  if (pid == 0) ::_exit(body());
  return pid;
}

template <typename Condition>
bool comes_true(Condition condition) {
  for (int i = 0; i < 200; ++i) {
    if (condition()) return true;
    std::this_thread::sleep_for(milliseconds(100));
  }
  return false;
}

TEST(Reaper, TellsHowAProcessEnded) {
  std::atomic<int> status = -1;
  const auto reaper = Reaper::start([&](const std::string& id, const ExitStatus& exit) {
    if (id == "one" && exit.known) status = exit.status;
  });
  ASSERT_TRUE(reaper.has_value());
  const pid_t child = make_child([] { return 42; });
  ASSERT_TRUE((*reaper)->watch("one", child).has_value());
  EXPECT_TRUE(comes_true([&] { return status != -1; }));
  EXPECT_EQ(status, 42);
  EXPECT_EQ(::waitpid(child, nullptr, 0), -1) << "it was not waited for";
}

// While its tracer, the worker of a migration, has not waited for it, its parent cannot.
TEST(Reaper, BuriesWhatWasTracedThoughOthersEndAllTheTime) {
  std::atomic<bool> ended = false;
  const auto reaper = Reaper::start([&](const std::string& id, const ExitStatus& exit) {
    if (id == "traced" && exit.signal == SIGKILL) ended = true;
  });
  ASSERT_TRUE(reaper.has_value());
  std::array<int, 2> go{};
  std::array<int, 2> seized{};
  ASSERT_EQ(::pipe2(go.data(), O_CLOEXEC), 0);
  ASSERT_EQ(::pipe2(seized.data(), O_CLOEXEC), 0);
  const pid_t traced = make_child([] { return ::pause(); });
  const pid_t tracer = make_child([&] {
    char byte = 0;
    if (::ptrace(PTRACE_SEIZE, traced, nullptr, nullptr) != 0) return 1;
    if (::write(seized[1], &byte, 1) != 1 || ::read(go[0], &byte, 1) != 1) return 2;
    return ::waitpid(traced, nullptr, __WALL) == traced ? 0 : 3;
  });
  char byte = 0;
  ASSERT_EQ(::read(seized[0], &byte, 1), 1);
  ASSERT_TRUE((*reaper)->watch("traced", traced).has_value());
  ::kill(traced, SIGKILL);
  EXPECT_TRUE(comes_true([&] { return ended.load(); }));
  EXPECT_EQ(::kill(traced, 0), 0) << "its tracer has not waited for it yet";
  ASSERT_EQ(::write(go[1], &byte, 1), 1);
  int status = -1;
  ASSERT_EQ(::waitpid(tracer, &status, 0), tracer);
  EXPECT_EQ(status, 0);
  EXPECT_TRUE(comes_true([&] {
    const pid_t other = make_child([] { return 0; });
    EXPECT_TRUE((*reaper)->watch("other", other).has_value());
    return ::kill(traced, 0) != 0;
  })) << "its zombie stays";
}

}  // namespace
}  // namespace godwit::engine
