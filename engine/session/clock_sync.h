// The difference between two hosts' monotonic clocks, for the timeline. Measured by the source: of several
// probes the one with the shortest round trip counts; its error is at most half of that round trip.
#pragma once

#include "engine/protocol/peer.h"

namespace godwit::engine {

struct ClockDifference {
  int64_t target_minus_source_us = 0;
  int64_t error_us = 0;  // at most
};

Result<ClockDifference> measure_clock_difference(Peer& target);
// The target's part: answers one probe.
Result<void> answer_clock_probe(Peer& source);

}  // namespace godwit::engine
