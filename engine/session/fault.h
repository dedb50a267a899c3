// Faults on order, for tests of what a migration does when something breaks at a given step.
//
// An agent started with GODWIT_FAULT=STEP:ACTION in its environment hands the string to its workers; without
// it nothing here does anything. Steps are the names passed to at_step(); actions:
//   kill      this worker ends at once by SIGKILL, as if the kernel's OOM killer had chosen it
//   kill-agent  the agent that started it does
//   stop      this worker stops (SIGSTOP) until somebody continues or kills it
//   cut       the control connection and the link are shut down
//   garbage   random bytes are sent to the peer instead of the next message
//   fail      the step fails with an error
//   late      the step takes so long that the deadline passes
#pragma once

#include <string>

#include "base/result.h"

namespace godwit::engine {

class Faults {
 public:
  // `order`: "STEP:ACTION" or empty.
  explicit Faults(const std::string& order);
  // The connections that "cut" and "garbage" act on; -1 while there is none.
  void set_connection(int control_socket) { control_socket_ = control_socket; }
  // Carries the order out if it names this step, once. `step`: one of steps.h; another is an error.
  Result<void> at_step(const std::string& step, int64_t deadline_ns = 0);

 private:
  std::string step_;
  std::string action_;
  int control_socket_ = -1;
};

}  // namespace godwit::engine
