// The machine's words, for logs, `godwit inspect` and the documentation.
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

}  // namespace godwit::engine
