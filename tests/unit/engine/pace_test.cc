#include "engine/policy/pace.h"

#include <gtest/gtest.h>

namespace godwit::engine {
namespace {

constexpr uint64_t kGiB = uint64_t{1} << 30;

PaceMeasurement in_time(double container_cpus) {
  return {.container_cpus = container_cpus,
          .round_bytes = 100 << 20,
          .round_bytes_left = kGiB,
          .round_elapsed_us = 500'000,  // 200 MB/s
          .time_left_us = 29'000'000};
}

TEST(Pace, AnIdleContainerIsMovedAtFullSpeed) {
  EXPECT_EQ(bulk_duty(in_time(0)), 1.0);
  EXPECT_EQ(pause_us(1.0, 1000), 0U);
}

TEST(Pace, TheBusierTheContainerTheLessIsTaken) {
  double before = 1.0;
  for (const double cpus : {0.1, 0.2, 0.3}) {
    const double duty = bulk_duty(in_time(cpus));
    EXPECT_LT(duty, before);
    before = duty;
  }
  EXPECT_EQ(bulk_duty(in_time(1)), kDutyMin);
  EXPECT_EQ(bulk_duty(in_time(64)), kDutyMin);
}

TEST(Pace, ALateRoundHurries) {
  PaceMeasurement late = in_time(1);
  late.round_bytes_left = 8 * kGiB;  // 40 s at this pace
  EXPECT_EQ(bulk_duty(late), 1.0);
  late.round_elapsed_us = 1000;  // too early to tell
  EXPECT_EQ(bulk_duty(late), kDutyMin);
  late = in_time(1);
  late.time_left_us = 0;
  EXPECT_EQ(bulk_duty(late), 1.0);
}

// Whatever the container does and whatever the link carries at full speed: the round ends in its share of the
// time, if it can at all.
TEST(Pace, TheBulkIsInsideItsShareOfTheDeadline) {
  constexpr uint64_t kDeadlineUs = 30'000'000;
  constexpr uint64_t kBatchBytes = 1 << 20;
  for (const double megabytes_per_second : {400.0, 1000.0, 5000.0})
    for (const uint64_t gigabytes : {1, 2, 4})
      for (const double cpus : {0.0, 0.2, 1.0}) {
        uint64_t done = 0;
        uint64_t now_us = 0;
        const auto batch_us = static_cast<uint64_t>(kBatchBytes / megabytes_per_second);
        while (done < gigabytes * kGiB) {
          const double duty = bulk_duty({.container_cpus = cpus,
                                         .round_bytes = done,
                                         .round_bytes_left = gigabytes * kGiB - done,
                                         .round_elapsed_us = now_us,
                                         .time_left_us = kDeadlineUs - now_us});
          now_us += batch_us + pause_us(duty, batch_us);
          done += kBatchBytes;
          ASSERT_LT(now_us, kDeadlineUs);
        }
        const double at_full_speed = static_cast<double>(gigabytes * kGiB) / megabytes_per_second;
        EXPECT_LT(static_cast<double>(now_us), std::max(kBulkShareOfTime * kDeadlineUs, at_full_speed) * 1.2)
            << gigabytes << " GiB at " << megabytes_per_second << " MB/s beside " << cpus << " processors";
      }
}

TEST(Pace, PausesAreBounded) {
  EXPECT_EQ(pause_us(0.5, 1000), 1000U);
  EXPECT_EQ(pause_us(0.2, 1000), 4000U);
  EXPECT_EQ(pause_us(0.2, 10'000'000), 50'000U);
}

}  // namespace
}  // namespace godwit::engine
