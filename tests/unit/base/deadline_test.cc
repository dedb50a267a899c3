#include "base/deadline.h"

#include <gtest/gtest.h>
#include <time.h>

#include <limits>

namespace godwit::test {
namespace {

TEST(Deadline, LiesAsFarAheadAsItsLengthSays) {
  const int64_t before = monotonic_ns();
  const Deadline deadline = Deadline::in_ms(1000);
  const int64_t after = monotonic_ns();
  EXPECT_GE(deadline.ns(), before + 1'000'000'000);
  EXPECT_LE(deadline.ns(), after + 1'000'000'000);
  EXPECT_EQ(Deadline::at_ns(deadline.ns()), deadline);
  EXPECT_GT(Deadline::in_us(5'000'000'000).ns(), Deadline::in_ms(4'000'000).ns());
}

TEST(Deadline, PassesOnceAndForGood) {
  const Deadline deadline = Deadline::in_ms(2);
  while (!deadline.passed()) EXPECT_LE(deadline.left_ns(), 2'000'000);
  EXPECT_TRUE(deadline.passed());
  EXPECT_EQ(deadline.left_ns(), 0);
  EXPECT_EQ(deadline.left_ms(), 0);
  EXPECT_EQ(deadline.left().tv_sec, 0);
  EXPECT_EQ(deadline.left().tv_nsec, 0);
  EXPECT_TRUE(Deadline::in_ms(0).passed());
  EXPECT_TRUE(Deadline::in_ms(-5).passed());
  EXPECT_TRUE(Deadline::at_ns(std::numeric_limits<int64_t>::min()).passed());
}

TEST(Deadline, IsRoundedUpForPollAndClampedToWhatPollTakes) {
  EXPECT_EQ(Deadline::in_ns(1'000'000'000'000).left_ms(), 1'000'000);
  EXPECT_EQ(Deadline::in_ms(int64_t{1} << 40).left_ms(), std::numeric_limits<int>::max());
  EXPECT_GT(Deadline::in_ms(10).left_ms(), 0);
  EXPECT_GE(Deadline::in_ms(3'600'000).left().tv_sec, 3'599);
}

TEST(Deadline, NeverIsNever) {
  const Deadline never = Deadline::never();
  EXPECT_TRUE(never.is_never());
  EXPECT_FALSE(never.passed());
  EXPECT_EQ(never.left_ms(), -1);
  EXPECT_EQ(never.left_ns(), std::numeric_limits<int64_t>::max());
  for (const int64_t length : {std::numeric_limits<int64_t>::max(), std::numeric_limits<int64_t>::max() / 2})
    EXPECT_EQ(Deadline::in_ms(length), never);
  EXPECT_EQ(Deadline::in_ns(std::numeric_limits<int64_t>::max()), never);
}

TEST(Deadline, TheSoonerOfTwoCounts) {
  const Deadline soon = Deadline::in_ms(10), late = Deadline::in_ms(1000);
  EXPECT_EQ(soon.sooner_of(late), soon);
  EXPECT_EQ(late.sooner_of(soon), soon);
  EXPECT_EQ(late.sooner_of(Deadline::never()), late);
}

}  // namespace
}  // namespace godwit::test
