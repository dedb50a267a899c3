// The source's half of the machine.
#include "engine/commit/machine.h"

namespace godwit::engine {
namespace {

bool is_gone(Copy copy) {
  return copy == Copy::kGone || copy == Copy::kGoneUnrun;
}

// The container is the source's.
Move stay(std::optional<SessionState> before, Copy copy, std::optional<SessionState> after) {
  if (copy == Copy::kUnknown) return {.before = {}, .order = Order::kWait, .after = {}};
  return {.before = before, .order = is_gone(copy) ? Order::kNoteEnd : Order::kGoOnHere, .after = after};
}

Move after_commit(Copy copy, Evidence target) {
  switch (target) {
    case Evidence::kRan:
      return {.before = SessionState::kDeparted, .order = Order::kRemoveRemains, .after = {}};
    case Evidence::kNeverRan:
      if (copy == Copy::kUnknown) return {.before = {}, .order = Order::kWait, .after = {}};
      return {.before = SessionState::kResumed,
              .order = is_gone(copy) ? Order::kNoteLost : Order::kGoOnHere,
              .after = {}};
    default:
      return {.before = {}, .order = Order::kAsk, .after = {}};
  }
}

}  // namespace

Move source_move(SessionState state, Copy copy, Evidence target) {
  switch (state) {
    case SessionState::kUndecided:
      return stay({}, copy, SessionState::kAborted);
    case SessionState::kAborted:
    case SessionState::kResumed:
      return stay({}, copy, {});
    case SessionState::kCommitted:
      return after_commit(copy, target);
    case SessionState::kDeparted:
      return {.before = {}, .order = Order::kRemoveRemains, .after = {}};
    default:
      return {.before = {}, .order = Order::kWait, .after = {}};
  }
}

Evidence source_evidence(SessionState state, bool worker_lives) {
  switch (state) {
    case SessionState::kUndecided:
      return worker_lives ? Evidence::kPending : Evidence::kAborted;
    case SessionState::kAborted:
      return Evidence::kAborted;
    case SessionState::kCommitted:
    case SessionState::kDeparted:
      return Evidence::kCommitted;
    case SessionState::kResumed:
      return Evidence::kResumed;
    default:
      return Evidence::kNoRecord;
  }
}

}  // namespace godwit::engine
