// The round policy, by simulation: thousands of synthetic workloads, converging and not, are migrated in
// simulated time.
#include <gtest/gtest.h>

#include <algorithm>
#include <random>

#include "engine/policy/round_policy.h"

namespace godwit::engine {
namespace {

// A container that writes `writes_per_second` bytes, all of them into `working_set` bytes, and a link.
struct Workload {
  double memory = 0;
  double working_set = 0;
  double writes_per_second = 0;
  double link_per_second = 0;
  double round_overhead_s = 0.004;
  double noise = 0;      // relative, of every measured figure
  double false_due = 0;  // bytes that the tracker names in every round though they did not change
};

struct Outcome {
  RoundAction last = RoundAction::kInvalid;
  size_t rounds = 0;
  double total_s = 0;
  double true_downtime_s = 0;  // had the cutover been done
  unsigned throttle_percent = 0;
};

// Distinct bytes written in `seconds`: coupon collection in the working set.
double dirtied(const Workload& load, double seconds, unsigned throttle_percent) {
  const double pace = throttle_percent == 0 ? 1.0 : throttle_percent / 100.0;
  if (load.working_set <= 0) return 0;
  return load.working_set * (1 - std::exp(-load.writes_per_second * pace * seconds / load.working_set));
}

Outcome simulate(const Workload& load, const PolicyGoals& goals, std::mt19937_64& random) {
  std::uniform_real_distribution<double> shake(1 - load.noise, 1 + load.noise);
  Outcome outcome;
  std::vector<RoundMeasurement> rounds;
  double due = load.memory;
  double since_scan = 0;
  for (;;) {
    const double duration = (load.round_overhead_s + due / load.link_per_second) * shake(random);
    rounds.push_back({.bytes_sent = static_cast<uint64_t>(due),
                      .bytes_due = static_cast<uint64_t>(due + load.false_due),
                      .bytes_changed = static_cast<uint64_t>(due),
                      .duration_us = static_cast<uint64_t>(duration * 1e6),
                      .since_last_scan_us = static_cast<uint64_t>(since_scan * 1e6),
                      .throttle_percent = outcome.throttle_percent});
    outcome.total_s += duration;
    due = std::min(dirtied(load, duration, outcome.throttle_percent) * shake(random), load.memory);
    since_scan = duration;
    const RoundDecision decision = decide(goals, rounds, static_cast<uint64_t>(outcome.total_s * 1e6));
    EXPECT_FALSE(decision.reason.empty());
    if (decision.action == RoundAction::kThrottle) {
      EXPECT_TRUE(outcome.throttle_percent == 0 || decision.throttle_percent < outcome.throttle_percent);
      outcome.throttle_percent = decision.throttle_percent;
    } else if (decision.action != RoundAction::kAnotherRound) {
      outcome.last = decision.action;
      outcome.rounds = rounds.size();
      outcome.true_downtime_s =
          kFixedDowntimeUs / 1e6 + due / load.link_per_second + load.false_due / kCompareBytesPerSecond;
      return outcome;
    }
    if (rounds.size() > 2 * kRoundsMax) {
      ADD_FAILURE() << "the policy does not come to an end";
      return outcome;
    }
  }
}

constexpr double kMiB = 1 << 20;
constexpr double kGiB = 1 << 30;

TEST(RoundPolicy, AnIdleContainerIsCutOverAfterThreeRounds) {
  std::mt19937_64 random(1);
  const Outcome outcome = simulate(
      {.memory = kGiB, .working_set = 0, .writes_per_second = 0, .link_per_second = 1e9}, {}, random);
  EXPECT_EQ(outcome.last, RoundAction::kCutover);
  EXPECT_LE(outcome.rounds, 4U);
  EXPECT_EQ(outcome.throttle_percent, 0U);
}

TEST(RoundPolicy, AContainerSlowerThanTheLinkIsMovedWithoutThrottling) {
  std::mt19937_64 random(2);
  const Outcome outcome =
      simulate({.memory = kGiB, .working_set = kGiB, .writes_per_second = 50 * kMiB, .link_per_second = 1e9},
               {}, random);
  EXPECT_EQ(outcome.last, RoundAction::kCutover);
  EXPECT_EQ(outcome.throttle_percent, 0U);
  EXPECT_LT(outcome.true_downtime_s, 0.010);
}

// As soft-dirty bits do: 1,500 to 3,000 pages in each round, beside some dozens that were written.
TEST(RoundPolicy, PagesThatDidNotChangeAreNotTakenForDirt) {
  std::mt19937_64 random(6);
  const Outcome outcome = simulate({.memory = 64 * kMiB,
                                    .working_set = 64 * kMiB,
                                    .writes_per_second = kMiB,
                                    .link_per_second = 1e8,
                                    .false_due = 12 * kMiB},
                                   {}, random);
  EXPECT_EQ(outcome.last, RoundAction::kCutover);
  EXPECT_EQ(outcome.throttle_percent, 0U);
  EXPECT_LT(outcome.true_downtime_s, 0.020);
}

// Shared memory that is compared whole: that is frozen time, and to slow the container down does not help.
TEST(RoundPolicy, MoreToCompareThanTheGoalAllowsIsNoCutover) {
  std::mt19937_64 random(7);
  const Outcome outcome = simulate(
      {.memory = kGiB, .working_set = 0, .writes_per_second = 0, .link_per_second = 1e9, .false_due = kGiB},
      {}, random);
  EXPECT_EQ(outcome.last, RoundAction::kGiveUp);
  EXPECT_EQ(outcome.throttle_percent, 0U);
}

TEST(RoundPolicy, AContainerFasterThanTheLinkIsSlowedDown) {
  std::mt19937_64 random(3);
  const Outcome outcome = simulate(
      {.memory = kGiB, .working_set = kGiB, .writes_per_second = 3e9, .link_per_second = 1e9}, {}, random);
  EXPECT_NE(outcome.throttle_percent, 0U);
  EXPECT_EQ(outcome.last, RoundAction::kCutover);
}

TEST(RoundPolicy, AContainerThatNothingSlowsDownEndsBeforeTheDeadline) {
  std::mt19937_64 random(4);
  const PolicyGoals goals{};
  const Outcome outcome = simulate(
      {.memory = 4 * kGiB, .working_set = 4 * kGiB, .writes_per_second = 1e12, .link_per_second = 1e9}, goals,
      random);
  EXPECT_EQ(outcome.last, RoundAction::kGiveUp);
  EXPECT_LT(outcome.total_s, goals.deadline_us / 1e6);
}

TEST(RoundPolicy, ThousandsOfWorkloadsEndWithinTheirGoals) {
  std::mt19937_64 random(5);
  const auto between = [&](double low, double high) {
    return std::exp(std::uniform_real_distribution<double>(std::log(low), std::log(high))(random));
  };
  unsigned moved = 0;
  unsigned easy = 0;
  unsigned easy_moved = 0;
  for (int i = 0; i < 5000; ++i) {
    Workload load{.memory = between(kMiB, 64 * kGiB),
                  .working_set = 0,
                  .writes_per_second = between(1e3, 1e11),
                  .link_per_second = between(1e8, 1e10),
                  .round_overhead_s = between(0.001, 0.02),
                  .noise = std::uniform_real_distribution<double>(0, 0.3)(random)};
    load.working_set = load.memory * std::uniform_real_distribution<double>(0, 1)(random);
    const PolicyGoals goals{.downtime_us = static_cast<uint64_t>(between(5e3, 5e5)),
                            .deadline_us = static_cast<uint64_t>(between(5e6, 120e6))};
    const Outcome outcome = simulate(load, goals, random);
    if (outcome.last == RoundAction::kCutover) {
      ++moved;
      // Never known to be over the goal: what is left is the noise of one round.
      EXPECT_LT(outcome.true_downtime_s * 1e6,
                2.5 * static_cast<double>(goals.downtime_us) + kFixedDowntimeUs);
    }
    // Much slower than the link, and time enough: such a container must be moved.
    const double bulk_s = load.memory / load.link_per_second;
    if (load.writes_per_second < 0.2 * load.link_per_second && bulk_s < 0.2 * goals.deadline_us / 1e6 &&
        load.round_overhead_s * load.writes_per_second / load.link_per_second * 1e6 <
            0.2 * goals.downtime_us) {
      ++easy;
      if (outcome.last == RoundAction::kCutover) ++easy_moved;
    }
    if (::testing::Test::HasFailure()) {
      ADD_FAILURE() << "workload " << i;
      return;
    }
  }
  EXPECT_GT(moved, 1000U);
  EXPECT_EQ(easy_moved, easy);
}

}  // namespace
}  // namespace godwit::engine
