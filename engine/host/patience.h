// How long an agent waits for a worker in whose hands a container stands still.
//
// A worker has bounds of its own for all that it waits for, and keeps its migration's deadline. But it may be
// kept by what it cannot bound: a file system that does not answer, a debugger, a defect of ours. Then it is
// ended, some seconds after its deadline, at whatever step it is: the records and the settlement lead on from
// there, as after any death (docs/protocol.md).
#pragma once

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <string>

#include "base/clock.h"
#include "base/result.h"

namespace godwit::engine {

class Patience {
 public:
  static constexpr int64_t kAfterDeadlineMs = 10'000;
  static constexpr uint64_t kDeadlineMsMax = 3'600'000;  // of a peer's word too

  explicit Patience(uint64_t deadline_ms)
      : until_ns_(monotonic_ns() +
                  (static_cast<int64_t>(std::min(deadline_ms, kDeadlineMsMax)) + kAfterDeadlineMs) *
                      1'000'000) {}

  // For WorkerProcess::next_report(): at least 1; 0 after end().
  [[nodiscard]] int64_t left_ms() const {
    return endless_ ? 0 : std::max<int64_t>((until_ns_ - monotonic_ns()) / 1'000'000, 1);
  }
  // From here on the container waits for nobody.
  void end() { endless_ = true; }
  // What a failure of next_report() is to be told as.
  [[nodiscard]] static std::string explain(const Error& error) {
    if (error.code != ETIMEDOUT) return error.to_string();
    return "its worker had not come to an end 10 s after the deadline, and was killed: what it waited for "
           "does "
           "not answer";
  }

 private:
  int64_t until_ns_;
  bool endless_ = false;
};

}  // namespace godwit::engine
