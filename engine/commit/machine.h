// The commit machine: who owns a container in the midst of a migration, and what is to be done about it.
//
// Pure: no I/O, no clock, no thread. Workers (engine/source, engine/target) and agents (engine/host) gather
// what is known, ask the machine, and execute its move; nobody else decides. tests/unit/commit explores every
// state that it can reach.
//
//   source    undecided ---> committed ---> departed           the target has said that it runs there
//                 |              `--------> resumed            the target has said that it never ran there
//                 `------------------------> aborted           nobody is left who could commit
//   target    preparing ---> may-run ---> armed ---> running
//                 `--------------`----------`------> never-ran
//
// What is known is of three kinds, and of nothing else:
//   * the record of this side (record.h), as it is on the disk;
//   * what the kernel shows of the container on this host (Copy);
//   * what the other side's agent answers (Evidence), which names the record it is from. Absence is no
//   evidence:
//     a side that has no record of a session says so, and that settles nothing.
//
// A session has one worker a side, which is never replaced. So "undecided" without a worker is as good as
// aborted: nobody is left who could commit.
//
// A move is {write, order, write}: the first record is durable before the order is carried out, and if it
// cannot be written the order is not carried out; the second is written once it has been. Every order may be
// carried out again after a crash in its middle.
#pragma once

#include <cstdint>
#include <optional>

#include "engine/commit/record.h"

namespace godwit::engine {

// What the kernel shows of the container on this host.
enum class Copy : uint8_t {
  kInvalid = 0,
  kUnknown = 1,    // it cannot be told now: nothing is to be done that depends on it
  kRuns = 2,       // its processes exist, and nothing holds them
  kHeld = 3,       // its processes exist, in a frozen cgroup
  kGone = 4,       // there is none
  kGoneUnrun = 5,  // there is none, and the cgroup that held it was never thawed
};

// What the other side's agent says.
enum class Evidence : uint8_t {
  kInvalid = 0,
  kSilence = 1,    // it was not asked, or has not answered
  kNoRecord = 2,   // it knows nothing of this session: no evidence
  kPending = 3,    // it is still at work on it
  kAborted = 4,    // source: it has not committed and never will
  kCommitted = 5,  // source: it has
  kResumed = 6,    // source: it had, and the container went on there because it never ran at the target
  kNeverRan = 7,   // target: it never ran there and never will
  kRan = 8,        // target: it was let go there, or has been seen with a higher incarnation since
};

enum class Order : uint8_t {
  kInvalid = 0,
  kWait = 1,           // nothing can be done yet; look again
  kAsk = 2,            // held and silent; ask the other side's agent
  kGoOnHere = 3,       // source: undo all that was done to the container; it runs here
  kNoteEnd = 4,        // the container belongs here and has ended; say so
  kNoteLost = 5,       // source: neither side has it any more; say so
  kRemoveRemains = 6,  // source: it runs at the target; remove what is left here
  kLetRun = 7,         // target: let it run, then keep it
  kTakeOver = 8,       // target: it was let go; keep it
  kDestroy = 9,        // target: remove what was built of it
  kFence = 10,         // target: it was let go, but a higher incarnation runs at the source: stop it
};

struct Move {
  std::optional<SessionState> before;  // durable before the order
  Order order = Order::kInvalid;
  std::optional<SessionState> after;  // written once the order has been carried out

  bool operator==(const Move&) const = default;
};

[[nodiscard]] const char* to_string(Copy copy);
[[nodiscard]] const char* to_string(Evidence evidence);
[[nodiscard]] const char* to_string(Order order);

// source.cc. The source's worker takes the decision when the target has said Ready and everything that could
// fail is behind it: it writes kCommitted. In every other case, and in every other process, this is what is
// to be done. For the worker itself when it gives up before the decision, and for an agent that has found
// that no worker is at work on the session.
[[nodiscard]] Move source_move(SessionState state, Copy copy, Evidence target);
// What the source's agent answers. `state`: kInvalid if there is no record.
[[nodiscard]] Evidence source_evidence(SessionState state, bool worker_lives);

// target.cc. The target's worker writes kPreparing before it makes anything, kMayRun before it says Ready,
// and kArmed before it lets it run. For the rest, as above. A connection that ends before Ready
// is kSilence in kPreparing or kMayRun of a worker that has not said Ready, which gives up
// (target_gives_up()).
[[nodiscard]] Move target_move(SessionState state, Copy copy, Evidence source);
// Before Ready was said: nothing was promised, so nobody needs to be asked.
[[nodiscard]] Move target_gives_up(SessionState state);
// What the target's agent answers to a source of incarnation `incarnation`; `highest`: of this uid, that was
// ever known to have run here or to have been seen to (0: never heard of).
[[nodiscard]] Evidence target_evidence(SessionState state, uint64_t incarnation, uint64_t highest);

// May a container of incarnation `incarnation` come to a host that knows `highest` of its uid?
[[nodiscard]] bool may_arrive(uint64_t incarnation, uint64_t highest);

// The one case that no protocol can decide: the other host will never come back, and its user says so.
// Nothing if there is nothing to resolve.
enum class Resolution : uint8_t { kInvalid = 0, kRunsHere = 1, kGone = 2 };
[[nodiscard]] std::optional<Move> resolve(SessionState state, Copy copy, Resolution resolution);
// What a session in `state` hangs on is the other host's answer. While both are at work, that is for moments.
[[nodiscard]] bool waits_for_other_side(SessionState state);

// For users: "committed: waits for b to say that it runs there". names.cc.
[[nodiscard]] std::string meaning_of(const SessionRecord& record, bool worker_lives);

}  // namespace godwit::engine
