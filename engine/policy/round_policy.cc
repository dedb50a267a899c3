#include "engine/policy/round_policy.h"

#include <fmt/format.h>

#include <algorithm>

namespace godwit::engine {
namespace {

constexpr uint64_t kUsPerSecond = 1'000'000;
// Until a round has moved this much, its rate says more about latency than about bandwidth.
constexpr uint64_t kMeaningfulRoundBytes = 1 << 20;
constexpr uint64_t kAssumedThroughput = 100'000'000;

uint64_t per_second(uint64_t bytes, uint64_t duration_us) {
  if (duration_us == 0) return 0;
  return static_cast<uint64_t>(static_cast<double>(bytes) * kUsPerSecond / static_cast<double>(duration_us));
}

uint64_t working_us(const RoundMeasurement& round) {
  return round.duration_us - std::min(round.paused_us, round.duration_us);
}

// What the last round would spend on pages that do not travel. Round 0 says nothing of it: it sends all.
uint64_t comparing_us(const RoundMeasurement& round) {
  if (round.since_last_scan_us == 0) return 0;
  const uint64_t bytes = round.bytes_due - std::min(round.bytes_changed, round.bytes_due);
  return bytes * kUsPerSecond / kCompareBytesPerSecond;
}

// The next harder step of throttling, or 0 if the last one is in force.
unsigned harder_than(unsigned percent) {
  for (const unsigned step : kThrottleSteps)
    if (percent == 0 || step < percent) return step;
  return 0;
}

// Rounds under the present throttle, the last included.
size_t rounds_at_this_throttle(std::span<const RoundMeasurement> rounds) {
  size_t count = 0;
  for (size_t i = rounds.size(); i-- > 0 && rounds[i].throttle_percent == rounds.back().throttle_percent;)
    ++count;
  return count;
}

// Whether the last round made the expected downtime smaller by a tenth at least.
bool still_shrinking(std::span<const RoundMeasurement> rounds) {
  if (rounds.size() < 3) return true;
  const uint64_t before = expected_downtime_us(rounds.first(rounds.size() - 1));
  return expected_downtime_us(rounds) < before - before / 10;
}

RoundDecision make(RoundAction action, uint64_t expected_us, std::string reason, unsigned throttle = 0) {
  return {.action = action,
          .throttle_percent = throttle,
          .expected_downtime_us = expected_us,
          .reason = std::move(reason)};
}

// Not shrinking and above the goal: slow the container down, or say that it cannot be done.
RoundDecision press_harder(const PolicyGoals& goals, std::span<const RoundMeasurement> rounds,
                           uint64_t expected_us) {
  constexpr size_t kRoundsBeforeThrottle = 2;
  const unsigned now = rounds.back().throttle_percent;
  if (kFixedDowntimeUs + comparing_us(rounds.back()) > goals.downtime_us)
    return make(
        RoundAction::kGiveUp, expected_us,
        fmt::format("{:.0f} MB have to be read again to know what changed, which takes longer than the "
                    "goal of {} ms (raise --downtime)",
                    static_cast<double>(rounds.back().bytes_due) / 1e6, goals.downtime_us / 1000));
  if (rounds_at_this_throttle(rounds) < kRoundsBeforeThrottle)
    return make(RoundAction::kAnotherRound, expected_us, "measuring the present pace");
  const unsigned next = harder_than(now);
  const std::string rates = fmt::format("it writes {:.0f} MB/s and the link carries {:.0f} MB/s",
                                        static_cast<double>(dirty_bytes_per_second(rounds)) / 1e6,
                                        static_cast<double>(throughput_bytes_per_second(rounds)) / 1e6);
  if (next != 0) return make(RoundAction::kThrottle, expected_us, rates + ", so it is slowed down", next);
  return make(
      RoundAction::kGiveUp, expected_us,
      fmt::format("{} although it is slowed down to {} %; a cutover would take {} ms, the goal is {} ms "
                  "(raise --downtime)",
                  rates, now, expected_us / 1000, goals.downtime_us / 1000));
}

}  // namespace

uint64_t dirty_bytes_per_second(std::span<const RoundMeasurement> rounds) {
  if (rounds.empty()) return 0;
  return per_second(rounds.back().bytes_changed, rounds.back().since_last_scan_us);
}

uint64_t throughput_bytes_per_second(std::span<const RoundMeasurement> rounds) {
  const RoundMeasurement* largest = nullptr;
  for (const RoundMeasurement& round : rounds)
    if (largest == nullptr || round.bytes_sent > largest->bytes_sent) largest = &round;
  if (largest == nullptr || largest->bytes_sent < kMeaningfulRoundBytes) return kAssumedThroughput;
  return std::max<uint64_t>(per_second(largest->bytes_sent, working_us(*largest)), 1);
}

uint64_t expected_downtime_us(std::span<const RoundMeasurement> rounds) {
  if (rounds.empty()) return 0;
  const RoundMeasurement& last = rounds.back();
  // Round 0 has no dirty rate yet: all that is known is that what it sent may have been written again.
  const uint64_t rate = last.since_last_scan_us == 0 ? per_second(last.bytes_changed, last.duration_us)
                                                     : dirty_bytes_per_second(rounds);
  const double dirty_now = static_cast<double>(rate) * static_cast<double>(last.duration_us) / kUsPerSecond;
  // No more can be dirty than there is.
  const double bytes =
      std::min(dirty_now, static_cast<double>(std::max(last.bytes_due, rounds.front().bytes_due)));
  const double transfer_us = bytes * kUsPerSecond / static_cast<double>(throughput_bytes_per_second(rounds));
  return kFixedDowntimeUs + static_cast<uint64_t>(transfer_us) + comparing_us(last);
}

RoundDecision decide(const PolicyGoals& goals, std::span<const RoundMeasurement> rounds,
                     uint64_t elapsed_us) {
  const uint64_t expected_us = expected_downtime_us(rounds);
  const bool good_enough = expected_us <= std::max(goals.downtime_us, kFixedDowntimeUs);
  const uint64_t next_round_us = working_us(rounds.back());  // rounds shrink or stay; they do not grow
  const bool time_left = elapsed_us + next_round_us + expected_us + kCutoverReserveUs < goals.deadline_us;

  // How much is written is not known yet: however long the first round was, the second may be short.
  if (rounds.size() == 1 && elapsed_us + kCutoverReserveUs < goals.deadline_us)
    return make(RoundAction::kAnotherRound, expected_us, "the first round measures the link only");
  if (good_enough && !still_shrinking(rounds))
    return make(RoundAction::kCutover, expected_us, "another round would not make it shorter");
  if (good_enough && (rounds.size() >= kRoundsMax || !time_left))
    return make(RoundAction::kCutover, expected_us, "within the goal, and no time for another round");
  if (!time_left || rounds.size() >= kRoundsMax)
    return make(
        RoundAction::kGiveUp, expected_us,
        fmt::format("no time left before the deadline of {} s: a cutover would take {} ms, the goal is "
                    "{} ms (raise --deadline or --downtime)",
                    goals.deadline_us / kUsPerSecond, expected_us / 1000, goals.downtime_us / 1000));
  if (still_shrinking(rounds))
    return make(RoundAction::kAnotherRound, expected_us, "each round is shorter than the one before");
  return press_harder(goals, rounds, expected_us);
}

}  // namespace godwit::engine
