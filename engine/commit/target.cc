// The target's half of the machine.
#include "engine/commit/machine.h"

namespace godwit::engine {
namespace {

constexpr Move kDestroyed{.before = {}, .order = Order::kDestroy, .after = SessionState::kNeverRan};
// Nothing is left that could be run. That is written down first: the cgroup that shows it goes with the rest.
constexpr Move kNothingLeft{.before = SessionState::kNeverRan, .order = Order::kDestroy, .after = {}};
constexpr Move kAsking{.before = {}, .order = Order::kAsk, .after = {}};
constexpr Move kWaiting{.before = {}, .order = Order::kWait, .after = {}};

// Complete, and not known to have run. `armed` is what must be durable before it may.
Move held(Evidence source, std::optional<SessionState> armed) {
  switch (source) {
    case Evidence::kCommitted:
      return {.before = armed, .order = Order::kLetRun, .after = SessionState::kRunning};
    case Evidence::kAborted:
    case Evidence::kResumed:
      return kDestroyed;
    default:
      return kAsking;
  }
}

Move may_run(Copy copy, Evidence source) {
  switch (copy) {
    case Copy::kGone:
    case Copy::kGoneUnrun:
      return kNothingLeft;
    // Nobody may have let it run: LetRun begins by holding it.
    case Copy::kRuns:
    case Copy::kHeld:
      return held(source, SessionState::kArmed);
    default:
      return kWaiting;
  }
}

Move armed(Copy copy, Evidence source) {
  switch (copy) {
    case Copy::kRuns:
      return {.before = SessionState::kRunning, .order = Order::kTakeOver, .after = {}};
    case Copy::kHeld:
      return held(source, {});
    case Copy::kGoneUnrun:
      return kNothingLeft;
    case Copy::kGone:
      // It may have run and ended. It has if the source has committed: it must not be started a second time.
      if (source == Evidence::kCommitted)
        return {.before = SessionState::kRunning, .order = Order::kNoteEnd, .after = {}};
      return held(source, {});
    default:
      return kWaiting;
  }
}

}  // namespace

Move target_move(SessionState state, Copy copy, Evidence source) {
  switch (state) {
    case SessionState::kPreparing:
    case SessionState::kNeverRan:
      return kDestroyed;
    case SessionState::kMayRun:
      return may_run(copy, source);
    case SessionState::kArmed:
      return armed(copy, source);
    case SessionState::kRunning:
      return {.before = {},
              .order = source == Evidence::kResumed ? Order::kFence : Order::kTakeOver,
              .after = {}};
    default:
      return kWaiting;
  }
}

Move target_gives_up(SessionState state) {
  const bool promised = state == SessionState::kArmed || state == SessionState::kRunning;
  return promised ? kAsking : kDestroyed;
}

Evidence target_evidence(SessionState state, uint64_t incarnation, uint64_t highest) {
  if (state == SessionState::kRunning || highest > incarnation) return Evidence::kRan;
  if (state == SessionState::kNeverRan) return Evidence::kNeverRan;
  return state == SessionState::kInvalid ? Evidence::kNoRecord : Evidence::kPending;
}

bool may_arrive(uint64_t incarnation, uint64_t highest) {
  return incarnation != 0 && incarnation + 1 > highest;
}

std::optional<Move> resolve(SessionState state, Copy copy, Resolution resolution) {
  if (resolution == Resolution::kInvalid) return std::nullopt;
  const bool here = resolution == Resolution::kRunsHere;
  switch (state) {
    case SessionState::kCommitted:
      return source_move(state, copy, here ? Evidence::kNeverRan : Evidence::kRan);
    case SessionState::kMayRun:
    case SessionState::kArmed:
      return target_move(state, copy, here ? Evidence::kCommitted : Evidence::kAborted);
    default:
      return std::nullopt;
  }
}

bool waits_for_other_side(SessionState state) {
  return resolve(state, Copy::kHeld, Resolution::kRunsHere).has_value();
}

}  // namespace godwit::engine
