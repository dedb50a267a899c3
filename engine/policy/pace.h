// The pace of pre-copy: how much of the processor time the bulk of the pages may take while the container
// works. Pure functions of measurements, like the round policy beside them.
//
// The bulk (round 0) is in no hurry as long as the deadline is far: where the container uses the processors,
// the sender pauses between batches, so that what it takes from the container, and the latency it adds,
// stay small. The rounds after it are short, and what is written meanwhile has to be sent again: they run at
// full speed. Near the deadline everything does.
#pragma once

#include <cstdint>

namespace godwit::engine {

struct PaceMeasurement {
  double container_cpus = 0;      // processors that the container uses on average
  uint64_t round_bytes = 0;       // of this round: read so far
  uint64_t round_bytes_left = 0;  // to be read yet
  uint64_t round_elapsed_us = 0;
  uint64_t time_left_us = 0;  // until the deadline of the migration
};

// Of the time between the beginning of the bulk and the deadline, it may take this part; the rest is for the
// rounds after it and the cutover.
inline constexpr double kBulkShareOfTime = 0.4;
// What remains to the sender beside a container that is always busy. The target works about as long, and
// where the container waits for its clients and they for it, both are times when neither gets on.
inline constexpr double kDutyMin = 0.07;
// Of a sender that pauses: a longer one holds a processor for more than some 0.3 ms at a time.
inline constexpr uint32_t kPoliteBatchBytes = 256 << 10;

// The part of the time, kDutyMin to 1, that the sender of the bulk may work; the rest it pauses.
[[nodiscard]] double bulk_duty(const PaceMeasurement& measurement);

// How long to pause after `worked_us` of work.
[[nodiscard]] uint64_t pause_us(double duty, uint64_t worked_us);

}  // namespace godwit::engine
