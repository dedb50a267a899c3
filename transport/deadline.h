// Deadlines, as all links count them: moments of monotonic_ns(); 0 means none.
#pragma once

#include <algorithm>
#include <cstdint>

#include "base/clock.h"

namespace godwit::transport {

[[nodiscard]] inline bool has_passed(int64_t deadline_ns) {
  return deadline_ns != 0 && monotonic_ns() >= deadline_ns;
}

// For poll(2) and epoll_wait(2): -1 for no deadline, rounded up otherwise.
[[nodiscard]] inline int left_ms(int64_t deadline_ns) {
  if (deadline_ns == 0) return -1;
  const int64_t left = (deadline_ns - monotonic_ns() + 999'999) / 1'000'000;
  return static_cast<int>(std::clamp<int64_t>(left, 0, 3'600'000));
}

// The earlier of two.
[[nodiscard]] inline int64_t earlier(int64_t left_ns, int64_t right_ns) {
  if (left_ns == 0 || right_ns == 0) return std::max(left_ns, right_ns);
  return std::min(left_ns, right_ns);
}

}  // namespace godwit::transport
