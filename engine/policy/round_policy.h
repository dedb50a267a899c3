// The round policy: what a migration does after each round of pre-copy. Pure functions of measurements: no
// clock, no state, no system calls, so that it can be simulated (tests/unit/engine/policy_test.cc).
//
// The model. A round sends what was dirty when it began and lasts `duration_us`. Meanwhile the container goes
// on writing; what it wrote is the next round's work. If the container were frozen now, the last round would
// carry the pages written since the last scan. So the downtime to expect is
//     fixed cost + dirty bytes now / throughput + bytes to compare / pace of comparing
// and another round is worth its time as long as it makes that clearly smaller.
//
// Dirty is what really changed. A tracker also names pages whose content the target has (soft-dirty bits name
// huge pages whole, and shared memory may be named whole): they are read and compared, each time the
// same ones, but they do not travel, and neither a faster link nor a slower container makes them fewer.
#pragma once

#include <cstdint>
#include <span>
#include <string>

namespace godwit::engine {

struct PolicyGoals {
  uint64_t downtime_us = 20'000;
  uint64_t deadline_us = 30'000'000;  // of the whole migration
};

// One finished round, as measured.
struct RoundMeasurement {
  uint64_t bytes_sent = 0;          // on the wire
  uint64_t bytes_due = 0;           // pages that the scan found, in bytes
  uint64_t bytes_changed = 0;       // of these, pages that had to be sent with their content
  uint64_t duration_us = 0;         // from its scan until all of it was stored at the target
  uint64_t paused_us = 0;           // of these, the time that the sender left to the container (pace.h)
  uint64_t since_last_scan_us = 0;  // over which `bytes_changed` were written; 0 in round 0
  unsigned throttle_percent = 0;    // in force during it; 0: none
};

enum class RoundAction { kInvalid = 0, kAnotherRound, kThrottle, kCutover, kGiveUp };

struct RoundDecision {
  RoundAction action = RoundAction::kInvalid;
  unsigned throttle_percent = 0;  // kThrottle: of the processor time the container had; then another round
  uint64_t expected_downtime_us = 0;  // of a cutover now
  std::string reason;                 // one line, for the user
};

// Costs of a cutover that do not depend on the amount of dirty memory: freeze, snapshot, reconcile, resume.
inline constexpr uint64_t kFixedDowntimeUs = 4'000;
// At which pages are read and found to be what the target has: one thread that reads another process and
// hashes, 4 GB/s and more here; half of it is left for slower machines.
inline constexpr uint64_t kCompareBytesPerSecond = 2'000'000'000;
// Kept free before the deadline for the cutover itself and its aftermath.
inline constexpr uint64_t kCutoverReserveUs = 500'000;
inline constexpr unsigned kRoundsMax = 200;
// The steps in which a container that outruns the link is slowed down.
inline constexpr unsigned kThrottleSteps[] = {60, 35, 20, 10, 5};

// Bytes per second at which the container writes, from the most recent round that measured it; 0 before that.
[[nodiscard]] uint64_t dirty_bytes_per_second(std::span<const RoundMeasurement> rounds);
// Bytes per second that rounds have moved, from the largest round so far (short ones measure latency).
[[nodiscard]] uint64_t throughput_bytes_per_second(std::span<const RoundMeasurement> rounds);
// Of a cutover right after the last round.
[[nodiscard]] uint64_t expected_downtime_us(std::span<const RoundMeasurement> rounds);

// `rounds` is not empty; `elapsed_us` since the migration began.
[[nodiscard]] RoundDecision decide(const PolicyGoals& goals, std::span<const RoundMeasurement> rounds,
                                   uint64_t elapsed_us);

}  // namespace godwit::engine
