// Time as this project counts it: CLOCK_MONOTONIC of the host, in nanoseconds or microseconds.
#pragma once

#include <cstdint>
#include <ctime>

namespace godwit {

[[nodiscard]] inline int64_t clock_ns(clockid_t clock) {
  timespec now{};
  ::clock_gettime(clock, &now);
  return now.tv_sec * 1'000'000'000 + now.tv_nsec;
}
[[nodiscard]] inline int64_t monotonic_ns() {
  return clock_ns(CLOCK_MONOTONIC);
}
[[nodiscard]] inline int64_t monotonic_us() {
  return monotonic_ns() / 1000;
}

}  // namespace godwit
