#include "engine/policy/pace.h"

#include <algorithm>

namespace godwit::engine {
namespace {

// A container that uses half a processor and more is busy: it wakes up often, and each time finds the
// sender in its way.
constexpr double kBusyCpus = 0.5;
// Below this it would not notice.
constexpr double kIdleCpus = 0.05;
// Until then its rate says nothing.
constexpr uint64_t kMeaningfulUs = 200'000;
// A longer pause would let the connection's window close.
constexpr uint64_t kPauseUsMax = 50'000;

// Whether the round, at its pace so far, takes longer than it may.
bool is_late(const PaceMeasurement& measurement) {
  if (measurement.round_elapsed_us < kMeaningfulUs) return false;
  const double rate =
      static_cast<double>(measurement.round_bytes) / static_cast<double>(measurement.round_elapsed_us);
  const uint64_t all_us = measurement.round_elapsed_us + measurement.time_left_us;
  const double affordable_us =
      static_cast<double>(all_us) * kBulkShareOfTime - static_cast<double>(measurement.round_elapsed_us);
  return rate * affordable_us < static_cast<double>(measurement.round_bytes_left);
}

}  // namespace

double bulk_duty(const PaceMeasurement& measurement) {
  if (measurement.container_cpus < kIdleCpus || is_late(measurement)) return 1.0;
  return std::clamp(1.0 - measurement.container_cpus / kBusyCpus, kDutyMin, 1.0);
}

uint64_t pause_us(double duty, uint64_t worked_us) {
  if (duty >= 1.0) return 0;
  return std::min(kPauseUsMax, static_cast<uint64_t>(static_cast<double>(worked_us) * (1.0 - duty) / duty));
}

}  // namespace godwit::engine
