// Breather: for long work in small pieces that holds up others while it lasts (a lock, a processor, their
// page tables). After a piece it sleeps in proportion to the work since the last sleep, so that the others
// get on.
#pragma once

#include <unistd.h>

#include <algorithm>
#include <cstdint>

#include "base/clock.h"

namespace godwit {

class Breather {
 public:
  // Sleeps `rest` times as long as was worked, all in all no longer than `rest_us_max`.
  Breather(double rest, int64_t rest_us_max) : rest_(rest), rest_us_left_(rest_us_max) {}
  // Between two pieces. Nothing happens before there was enough work for a sleep to be exact.
  void breathe() {
    constexpr int64_t kWorkUsMin = 500;
    const int64_t worked_us = monotonic_us() - begun_us_;
    if (worked_us < kWorkUsMin) return;
    const int64_t rest_us =
        std::min(static_cast<int64_t>(static_cast<double>(worked_us) * rest_), rest_us_left_);
    rest_us_left_ -= rest_us;
    if (rest_us > 0) ::usleep(static_cast<useconds_t>(rest_us));
    begun_us_ = monotonic_us();
  }

 private:
  double rest_;
  int64_t rest_us_left_;
  int64_t begun_us_ = monotonic_us();
};

}  // namespace godwit
