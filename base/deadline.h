// Deadline: the moment until which something may wait. A value: copy it, hand it on, compare it.
//
// Whoever begins a piece of work makes one deadline and gives it to every call that can block in it: so the
// calls share the time, however many there are, and whoever waits for the whole knows how long. Its clock is
// CLOCK_MONOTONIC of the host: it neither jumps nor stops with the container.
//
//   const Deadline deadline = Deadline::in_ms(50).sooner_of(whole);
//   while (!done()) {
//     if (deadline.passed()) return fail("wait for", name, ETIMEDOUT);
//     ::poll(&entry, 1, deadline.left_ms());
//   }
//
// Units are in the names. Threads: a value has no state.
#pragma once

#include <algorithm>
#include <cstdint>
#include <ctime>
#include <limits>

#include "base/clock.h"

namespace godwit {

class Deadline {
 public:
  // From now on. A negative length is 0; one that no clock can hold is never().
  [[nodiscard]] static Deadline in_ns(int64_t length) {
    const int64_t now = monotonic_ns();
    length = std::max<int64_t>(length, 0);
    return length >= kNever - now ? never() : Deadline(now + length);
  }
  [[nodiscard]] static Deadline in_us(int64_t length) { return in_ns(scaled(length, 1000)); }
  [[nodiscard]] static Deadline in_ms(int64_t length) { return in_ns(scaled(length, 1'000'000)); }
  // At a moment of monotonic_ns().
  [[nodiscard]] static Deadline at_ns(int64_t moment) { return Deadline(moment); }
  [[nodiscard]] static Deadline never() { return Deadline(kNever); }

  // The moment, as monotonic_ns() counts.
  [[nodiscard]] int64_t ns() const { return at_ns_; }
  [[nodiscard]] bool is_never() const { return at_ns_ == kNever; }
  [[nodiscard]] bool passed() const { return !is_never() && monotonic_ns() >= at_ns_; }
  // 0 when it has passed.
  [[nodiscard]] int64_t left_ns() const {
    if (is_never()) return kNever;
    const int64_t now = monotonic_ns();
    return at_ns_ > now ? at_ns_ - now : 0;
  }
  // For poll(2) and its kin: rounded up, so that nobody spins through the last millisecond; 0 when it has
  // passed, -1 (no limit) for never().
  [[nodiscard]] int left_ms() const {
    if (is_never()) return -1;
    const int64_t left = left_ns();
    const int64_t whole = left / 1'000'000 + (left % 1'000'000 != 0 ? 1 : 0);
    return static_cast<int>(std::min<int64_t>(whole, std::numeric_limits<int>::max()));
  }
  // For sigtimedwait(2), ppoll(2), nanosleep(2).
  [[nodiscard]] timespec left() const {
    const int64_t left = left_ns();
    return {.tv_sec = left / 1'000'000'000, .tv_nsec = left % 1'000'000'000};
  }
  [[nodiscard]] Deadline sooner_of(Deadline other) const { return at_ns_ < other.at_ns_ ? *this : other; }

  friend bool operator==(Deadline, Deadline) = default;

 private:
  static constexpr int64_t kNever = std::numeric_limits<int64_t>::max();

  explicit Deadline(int64_t at_ns) : at_ns_(at_ns) {}
  static int64_t scaled(int64_t length, int64_t unit_ns) {
    return length > kNever / unit_ns ? kNever : std::max<int64_t>(length, 0) * unit_ns;
  }

  int64_t at_ns_;
};

}  // namespace godwit
