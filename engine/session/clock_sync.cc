#include "engine/session/clock_sync.h"

#include "base/clock.h"

namespace godwit::engine {

using model::ControlMessage;

Result<ClockDifference> measure_clock_difference(Peer& target) {
  constexpr int kProbes = 8;
  ClockDifference best{.target_minus_source_us = 0, .error_us = INT64_MAX};
  for (int i = 0; i < kProbes; ++i) {
    ControlMessage probe;
    probe.mutable_clock_probe();
    const int64_t sent_us = monotonic_us();
    GODWIT_TRY(target.send(probe));
    GODWIT_ASSIGN(const ControlMessage answer, target.expect(ControlMessage::kClockAnswer));
    const int64_t half_trip_us = (monotonic_us() - sent_us) / 2;
    if (half_trip_us >= best.error_us) continue;
    best.error_us = half_trip_us;
    best.target_minus_source_us = answer.clock_answer().monotonic_us() - (sent_us + half_trip_us);
  }
  return best;
}

Result<void> answer_clock_probe(Peer& source) {
  ControlMessage answer;
  answer.mutable_clock_answer()->set_monotonic_us(monotonic_us());
  return source.send(answer);
}

}  // namespace godwit::engine
