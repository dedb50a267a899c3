// A small world for the commit machine to live in: three hosts, a container, and three sessions that move it
// from A to B, from B to C and back from C to B. All that a process of ours can do, and all that can happen
// to it, is a transition from one World to another. The decisions are not modelled: they are the machine's
// own.
#pragma once

#include <array>
#include <cstdint>
#include <cstring>
#include <functional>
#include <string>

#include "engine/commit/machine.h"

namespace godwit::engine::model_check {

constexpr size_t kHosts = 3;
constexpr size_t kSessions = 3;
constexpr std::array<uint8_t, kSessions> kSourceOf = {0, 1, 2};
constexpr std::array<uint8_t, kSessions> kTargetOf = {1, 2, 1};

// A record as its file has it. What is visible and not durable is being written.
struct Disk {
  SessionState visible = SessionState::kInvalid;
  SessionState durable = SessionState::kInvalid;
  bool operator==(const Disk&) const = default;
};

enum class SourceWorker : uint8_t { kNone, kRounds, kFrozen, kReady, kDeciding, kDecided, kAfter, kGivenUp };
enum class TargetWorker : uint8_t { kNone, kBuilding, kMayRun, kHeld };

// Messages under way on the session's connection.
enum Message : uint8_t { kReadySaid = 1, kCommitSaid = 4, kRunningSaid = 8, kAbortSaid = 16 };

struct Session {
  Disk source;
  Disk target;
  SourceWorker source_worker = SourceWorker::kNone;
  TargetWorker target_worker = TargetWorker::kNone;
  uint8_t messages = 0;
  bool connected = false;
  Evidence heard_by_source = Evidence::kSilence;  // an answer under way, or not acted upon yet
  Evidence heard_by_target = Evidence::kSilence;
  uint8_t incarnation = 0;
  bool target_ran = false;      // ever
  bool source_went_on = false;  // after the freeze
  bool operator==(const Session&) const = default;
};

enum class Keeper : uint8_t {
  kNothing,
  kRuns,
  kMigrates,
  kArrives,
  kEnded
};  // what the agent's own record says

struct Host {
  bool agent = true;
  Copy copy = Copy::kGone;
  uint8_t incarnation = 0;  // of the copy
  uint8_t highest = 0;      // that was seen
  Keeper keeper = Keeper::kNothing;
  uint8_t session = 0;  // that it migrates or arrives in
  bool operator==(const Host&) const = default;
};

struct World {
  std::array<Host, kHosts> hosts;
  std::array<Session, kSessions> sessions;
  uint8_t started = 0;   // sessions
  uint8_t crashes = 0;   // so far
  uint8_t refusals = 0;  // of the disks, so far
  bool lost = false;     // with the host that had it: nobody's fault
  bool deleted = false;  // by us, after the decision: a violation that no later state shows
  bool operator==(const World&) const = default;
};

struct WorldHash {
  size_t operator()(const World& world) const;
};

// What may be put out of order on purpose.
struct Rules {
  Move (*source_move)(SessionState, Copy, Evidence) = engine::source_move;
  Move (*target_move)(SessionState, Copy, Evidence) = engine::target_move;
  Evidence (*source_evidence)(SessionState, bool) = engine::source_evidence;
  Evidence (*target_evidence)(SessionState, uint64_t, uint64_t) = engine::target_evidence;
  bool (*may_arrive)(uint64_t, uint64_t) = engine::may_arrive;
  bool visible_is_durable = true;
  bool may_run_before_ready = true;
};

struct Budget {
  uint8_t sessions = kSessions;
  uint8_t crashes = 3;
  uint8_t refusals = 1;
};

// What happened: a transition of ours (which goes on by itself sooner or later), or a fault (which need not
// happen).
enum class Cause : uint8_t { kOurs, kFault };
using Successor = std::function<void(const World& world, Cause cause, const char* what)>;

// Calls `successor` for each World that may follow.
void for_each_successor(const World& world, const Rules& rules, const Budget& budget,
                        const Successor& successor);
[[nodiscard]] World first_world();
// What must never be; empty: all is well.
[[nodiscard]] std::string violation(const World& world);
// Nothing is left to be done: the container runs at one host, or was lost with its own.
[[nodiscard]] bool is_settled(const World& world);
[[nodiscard]] std::string describe(const World& world);

}  // namespace godwit::engine::model_check
