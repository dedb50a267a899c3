// The machine's words, for logs, `godwit inspect` and the documentation.
#include <fmt/format.h>

#include <array>

#include "engine/commit/machine.h"

namespace godwit::engine {

const char* to_string(Copy copy) {
  constexpr std::array kNames = {"invalid", "unknown", "runs", "held", "gone", "gone, never thawed"};
  return kNames.at(static_cast<size_t>(copy));
}

const char* to_string(Evidence evidence) {
  constexpr std::array kNames = {"invalid",   "silence", "no record", "pending", "aborted",
                                 "committed", "resumed", "never ran", "ran"};
  return kNames.at(static_cast<size_t>(evidence));
}

const char* to_string(Order order) {
  constexpr std::array kNames = {"invalid",      "wait",          "hold and ask",   "go on here",
                                 "note its end", "note its loss", "remove remains", "let run",
                                 "take over",    "destroy",       "fence"};
  return kNames.at(static_cast<size_t>(order));
}

std::string meaning_of(const SessionRecord& record, bool worker_lives) {
  const std::string& peer = record.peer_name;
  switch (record.state) {
    case SessionState::kUndecided:
      return worker_lives ? "it runs here, and is being moved"
                          : "nobody is left who could move it: it goes on here";
    case SessionState::kCommitted:
      return fmt::format("waits for {} to say that it runs there", peer);
    case SessionState::kAborted:
      return "it was not moved, and went on here";
    case SessionState::kResumed:
      return fmt::format("it never ran at {}, and went on here", peer);
    case SessionState::kDeparted:
      return fmt::format("it was let run at {}", peer);
    case SessionState::kPreparing:
      return worker_lives ? "it is being built here" : "it does not come: what was built of it is removed";
    case SessionState::kMayRun:
    case SessionState::kArmed:
      return fmt::format("it is complete, and waits for {} to say whether it runs here", peer);
    case SessionState::kRunning:
      return "it was let run here";
    case SessionState::kNeverRan:
      return "it never ran here, and nothing is left of it";
    case SessionState::kInvalid:
      break;
  }
  return "its state is not known";
}

}  // namespace godwit::engine
