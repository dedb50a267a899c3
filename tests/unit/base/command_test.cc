// Commands are run without a shell, bounded in time and output, and inherit nothing by accident.
#include "base/command.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <unistd.h>

#include <array>

#include "base/clock.h"
#include "base/fd.h"

namespace godwit {
namespace {

Command command(std::vector<std::string> arguments) {
  Command made;
  made.arguments = std::move(arguments);
  made.environment = {"PATH=/usr/bin:/bin", "COLOUR=blue"};
  return made;
}

TEST(Command, SeparatesOutputErrorsAndStatus) {
  const auto outcome = run_command(command({"sh", "-c", "echo out; echo err >&2; exit 3"}));
  ASSERT_TRUE(outcome) << outcome.error().to_string();
  EXPECT_EQ(outcome->output, "out\n");
  EXPECT_EQ(outcome->errors, "err\n");
  EXPECT_EQ(outcome->exit_status, 3);
}

TEST(Command, MergesOutputInTheOrderItCame) {
  const auto outcome = run_command(command({"sh", "-c", "echo 1; echo 2 >&2; echo 3"}), true);
  ASSERT_TRUE(outcome);
  EXPECT_EQ(outcome->output, "1\n2\n3\n");
}

TEST(Command, CountsSignalsAsShellsDo) {
  const auto outcome = run_command(command({"sh", "-c", "kill -TERM $$"}));
  ASSERT_TRUE(outcome);
  EXPECT_EQ(outcome->exit_status, 128 + SIGTERM);
}

TEST(Command, KnowsNoShellAndPassesItsEnvironmentOnly) {
  const auto outcome = run_command(command({"sh", "-c", "echo \"$1\" $COLOUR $HOME", "sh", "$(id) ; *"}));
  ASSERT_TRUE(outcome);
  EXPECT_EQ(outcome->output, "$(id) ; * blue\n");
}

TEST(Command, HandsOverTheNamedDescriptorsAndNoOther) {
  const Fd leaky(::open("/dev/zero", O_RDONLY));  // without O_CLOEXEC, as careless code has them
  Fd third(::open("/etc/hostname", O_RDONLY | O_CLOEXEC));
  Fd fourth(::open("/etc/passwd", O_RDONLY | O_CLOEXEC));
  ASSERT_TRUE(leaky.valid() && third.valid() && fourth.valid());
  Command list =
      command({"sh", "-c",
               "readlink /proc/$$/fd/3 /proc/$$/fd/4 /proc/$$/fd/5 /proc/$$/fd/6; ls /proc/$$/fd | wc -l"});
  list.descriptors = {fourth.get(), third.get()};
  const auto outcome = run_command(list);
  ASSERT_TRUE(outcome);
  EXPECT_EQ(outcome->output, "/etc/passwd\n/etc/hostname\n5\n");
}

TEST(Command, ReadsItsInput) {
  Command reader = command({"cat"});
  const auto nothing = run_command(reader);
  ASSERT_TRUE(nothing) << nothing.error().to_string();
  EXPECT_EQ(nothing->output, "");
  for (size_t i = 0; reader.input.size() < (size_t{1} << 20); ++i) reader.input += std::to_string(i);
  const auto outcome = run_command(reader);  // more than a pipe holds
  ASSERT_TRUE(outcome) << outcome.error().to_string();
  EXPECT_EQ(outcome->output, reader.input);
}

TEST(Command, IsKilledWithItsChildrenWhenItsTimeIsUp) {
  Command slow = command({"sh", "-c", "sleep 100 & sleep 100"});
  slow.timeout_ms = 100;
  const int64_t began_us = monotonic_us();
  const auto outcome = run_command(slow);
  ASSERT_FALSE(outcome);
  EXPECT_EQ(outcome.error().code, ETIMEDOUT);
  EXPECT_LT(monotonic_us() - began_us, 5'000'000);
}

TEST(Command, DoesNotWaitForADaemonThatKeepsItsOutputOpen) {
  const int64_t began_us = monotonic_us();
  const auto outcome = run_command(command({"sh", "-c", "sleep 8 & echo done"}));
  ASSERT_TRUE(outcome) << outcome.error().to_string();
  EXPECT_EQ(outcome->output, "done\n");
  EXPECT_LT(monotonic_us() - began_us, 5'000'000);
}

TEST(Command, BoundsWhatItReads) {
  Command loud = command({"cat", "/dev/zero"});
  loud.output_bytes_max = 100'000;
  const auto outcome = run_command(loud);
  ASSERT_FALSE(outcome);
  EXPECT_EQ(outcome.error().code, EMSGSIZE);
}

TEST(Command, SaysWhatToInstall) {
  const auto outcome = run_command(command({"godwit-no-such-program"}));
  ASSERT_FALSE(outcome);
  EXPECT_EQ(outcome.error().code, ENOENT);
  EXPECT_EQ(outcome.error().hint, "install godwit-no-such-program");
  Command packaged = command({"godwit-no-such-program"});
  packaged.package = "the package godwit-tools";
  EXPECT_EQ(run_command(packaged).error().hint, "install the package godwit-tools");
}

TEST(Command, StartsWithNoSignalBlockedOrIgnored) {
  sigset_t blocked;
  sigset_t before;
  ::sigemptyset(&blocked);
  ::sigaddset(&blocked, SIGUSR1);
  ::pthread_sigmask(SIG_BLOCK, &blocked, &before);
  const auto outcome = run_command(command({"grep", "-E", "SigBlk|SigIgn", "/proc/self/status"}));
  ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
  ASSERT_TRUE(outcome);
  EXPECT_EQ(outcome->output, "SigBlk:\t0000000000000000\nSigIgn:\t0000000000000000\n");
}

}  // namespace
}  // namespace godwit
