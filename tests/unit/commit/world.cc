#include "tests/unit/commit/world.h"

#include <fmt/format.h>
#include <xxhash.h>

#include <algorithm>
#include <type_traits>

namespace godwit::engine::model_check {
namespace {

// One World, and what may follow it.
class Step {
 public:
  Step(const World& world, const Rules& rules, const Budget& budget, const Successor& successor)
      : world_(world), rules_(rules), budget_(budget), successor_(successor) {}

  void all() {
    start_session();
    for (size_t i = 0; i < world_.started; ++i) {
      source_worker(i);
      target_worker(i);
      cut(i);
      for (const Side side : {Side::kSource, Side::kTarget}) {
        ask(i, side);
        settle(i, side);
        kill_worker(i, side);
        forget(i, side);
      }
      kill_replica(i);
    }
    for (size_t host = 0; host < kHosts; ++host) {
      agent(host);
      lose_power(host);
    }
  }

 private:
  // ---- what the World says
  [[nodiscard]] static size_t host_of(size_t i, Side side) {
    return side == Side::kSource ? kSourceOf.at(i) : kTargetOf.at(i);
  }
  [[nodiscard]] static Disk& disk_of(World& world, size_t i, Side side) {
    return side == Side::kSource ? world.sessions.at(i).source : world.sessions.at(i).target;
  }
  [[nodiscard]] static bool worker_lives(const World& world, size_t i, Side side) {
    const Session& session = world.sessions.at(i);
    return side == Side::kSource ? session.source_worker != SourceWorker::kNone
                                 : session.target_worker != TargetWorker::kNone;
  }
  // The agent has this session in hand.
  [[nodiscard]] static bool under_way(const World& world, size_t i, Side side) {
    const Host& host = world.hosts.at(host_of(i, side));
    return host.session == i && host.keeper == (side == Side::kSource ? Keeper::kMigrates : Keeper::kArrives);
  }
  [[nodiscard]] static uint8_t seen(const World& world, size_t host) { return world.hosts.at(host).highest; }

  void follow(World next, Cause cause, const char* what) const {
    for (size_t i = 0; i < next.started; ++i) forget_what_nobody_reads(next, i);
    successor_(next, cause, what);
  }
  // Worlds that differ only in what nobody will ever look at are one.
  static void forget_what_nobody_reads(World& world, size_t i) {
    Session& session = world.sessions.at(i);
    const bool source = under_way(world, i, Side::kSource) || worker_lives(world, i, Side::kSource);
    const bool target = under_way(world, i, Side::kTarget) || worker_lives(world, i, Side::kTarget);
    constexpr uint8_t kToSource = kReadySaid | kRunningSaid;
    if (!worker_lives(world, i, Side::kSource)) session.messages &= static_cast<uint8_t>(~kToSource);
    if (!worker_lives(world, i, Side::kTarget)) session.messages &= kToSource;
    if (!source) session.heard_by_source = Evidence::kSilence;
    if (!target) session.heard_by_target = Evidence::kSilence;
    if (source || target) return;
    const uint8_t incarnation = session.incarnation;
    session = Session{};
    session.incarnation = incarnation;
  }

  // ---- records. A write is two transitions: it is visible, then durable; a disk may refuse the second.
  void flush(World world, size_t i, Side side, const std::function<void(World&)>& written,
             const std::function<void(World&)>& refused, const char* what) const {
    World good = world;
    disk_of(good, i, side).durable = disk_of(good, i, side).visible;
    written(good);
    follow(good, Cause::kOurs, what);
    if (world.refusals == budget_.refusals) return;
    ++world.refusals;
    // The writer reads what the disk has, and goes on from that.
    if (rules_.visible_is_durable) disk_of(world, i, side).visible = disk_of(world, i, side).durable;
    refused(world);
    follow(world, Cause::kFault, "the disk refuses it");
  }
  // For writes whose interruption leaves what a kill before or after them leaves, too.
  static void write(World& world, size_t i, Side side, SessionState state) {
    disk_of(world, i, side) = {.visible = state, .durable = state};
  }
  // What a reader is told; kInvalid with `busy` if it has to come again.
  [[nodiscard]] SessionState read(const World& world, size_t i, Side side, bool& busy) const {
    const Session& session = world.sessions.at(i);
    const Disk& disk = side == Side::kSource ? session.source : session.target;
    if (!rules_.visible_is_durable) return disk.visible;
    busy = disk.visible != disk.durable;
    return disk.durable;
  }

  // ---- orders
  static void run_here(World& world, size_t host, uint8_t incarnation) {
    Host& place = world.hosts.at(host);
    place.copy = Copy::kRuns;
    place.incarnation = incarnation;
  }
  static void leave(World& world, size_t host, Keeper keeper) { world.hosts.at(host).keeper = keeper; }

  static void go_on_at_source(World& world, size_t i, bool resumed) {
    Session& session = world.sessions.at(i);
    session.source_went_on = true;
    run_here(world, kSourceOf.at(i), static_cast<uint8_t>(session.incarnation + (resumed ? 2 : 0)));
  }
  static void let_run(World& world, size_t i) {
    Session& session = world.sessions.at(i);
    session.target_ran = true;
    run_here(world, kTargetOf.at(i), static_cast<uint8_t>(session.incarnation + 1));
  }
  static void destroy(World& world, size_t i) {
    Host& host = world.hosts.at(kTargetOf.at(i));
    const SessionState source = world.sessions.at(i).source.durable;
    const bool decided = source == SessionState::kCommitted || source == SessionState::kDeparted;
    if (decided && (host.copy == Copy::kHeld || host.copy == Copy::kRuns)) world.deleted = true;
    host.copy = Copy::kGone;
  }
  static void remove_remains(World& world, size_t i) {
    // After a power cut nobody can say that an armed replica did not run: then it has.
    if (!world.sessions.at(i).target_ran && !world.lost) world.deleted = true;
    world.hosts.at(kSourceOf.at(i)).copy = Copy::kGone;
  }

  // An agent, or a worker in its place, executes a move; each part may be the last before a crash.
  void execute(const World& world, size_t i, Side side, const Move& move, bool by_worker) const {
    World next = world;
    if (move.order == Order::kAsk || move.order == Order::kWait) return;
    if (move.before && disk_of(next, i, side).durable != *move.before) {
      disk_of(next, i, side).visible = *move.before;
      flush(
          next, i, side, [](World&) {}, [](World&) {}, "an agent or worker writes before an order");
      return;  // the order follows from the record that is there then
    }
    carry_out(next, i, move);
    if (!move.after || disk_of(next, i, side).durable == *move.after) {
      conclude(next, i, side, by_worker);
      return follow(next, Cause::kOurs, to_string(move.order));
    }
    // Carried out, and not yet written.
    follow(next, Cause::kOurs, to_string(move.order));
    World written = next;
    write(written, i, side, *move.after);
    conclude(written, i, side, by_worker);
    follow(written, Cause::kOurs, to_string(move.order));
  }

  static void carry_out(World& world, size_t i, const Move& move) {
    switch (move.order) {
      case Order::kGoOnHere:
        return go_on_at_source(world, i, world.sessions.at(i).source.durable == SessionState::kResumed);
      case Order::kNoteEnd:
      case Order::kNoteLost:
        break;
      case Order::kRemoveRemains:
        return remove_remains(world, i);
      case Order::kLetRun:
        return let_run(world, i);
      case Order::kDestroy:
        return destroy(world, i);
      default:
        break;
    }
  }

  // The agent's own record follows: the session is out of its hands.
  static void conclude(World& world, size_t i, Side side, bool by_worker) {
    const size_t host = host_of(i, side);
    Session& session = world.sessions.at(i);
    if (by_worker && side == Side::kSource) session.source_worker = SourceWorker::kNone;
    if (by_worker && side == Side::kTarget) session.target_worker = TargetWorker::kNone;
    if (by_worker) session.connected = false;
    // A worker's report reaches an agent that lives; another one settles what the record says.
    if (by_worker && !world.hosts.at(host).agent) return;
    const SessionState state = disk_of(world, i, side).durable;
    if (state == SessionState::kResumed)
      world.hosts.at(host).highest = static_cast<uint8_t>(session.incarnation + 2);
    const bool exists =
        world.hosts.at(host).copy != Copy::kGone && world.hosts.at(host).copy != Copy::kGoneUnrun;
    if (state == SessionState::kDeparted || state == SessionState::kNeverRan)
      return leave(world, host, Keeper::kNothing);
    if (state == SessionState::kRunning)
      world.hosts.at(host).highest =
          std::max<uint8_t>(world.hosts.at(host).highest, static_cast<uint8_t>(session.incarnation + 1));
    leave(world, host, exists ? Keeper::kRuns : Keeper::kEnded);
  }

  void start_session() const {
    const size_t i = world_.started;
    if (i == budget_.sessions) return;
    const size_t from = kSourceOf.at(i);
    const Host& source = world_.hosts.at(from);
    const Host& target = world_.hosts.at(kTargetOf.at(i));
    if (!source.agent || source.keeper != Keeper::kRuns || source.copy != Copy::kRuns) return;
    if (!target.agent || (target.keeper != Keeper::kNothing && target.keeper != Keeper::kEnded)) return;
    if (!rules_.may_arrive(source.incarnation, target.highest)) return;
    World next = world_;
    ++next.started;
    Session& session = next.sessions.at(i);
    session = Session{};
    session.source_worker = SourceWorker::kRounds;
    session.target_worker = TargetWorker::kBuilding;
    session.connected = true;
    session.incarnation = source.incarnation;
    write(next, i, Side::kSource, SessionState::kUndecided);
    write(next, i, Side::kTarget, SessionState::kPreparing);
    next.hosts.at(from).keeper = Keeper::kMigrates;
    next.hosts.at(from).session = static_cast<uint8_t>(i);
    Host& place = next.hosts.at(kTargetOf.at(i));
    place.keeper = Keeper::kArrives;
    place.session = static_cast<uint8_t>(i);
    place.copy = Copy::kGone;
    follow(next, Cause::kFault, "a migration begins");
  }

  // ---- the source's worker
  void source_worker(size_t i) const {
    const Session& session = world_.sessions.at(i);
    World next = world_;
    Session& now = next.sessions.at(i);
    switch (session.source_worker) {
      case SourceWorker::kNone:
        return;
      case SourceWorker::kRounds:
        now.source_worker = SourceWorker::kFrozen;
        next.hosts.at(kSourceOf.at(i)).copy = Copy::kHeld;
        follow(next, Cause::kOurs, "source freezes and sends all");
        return give_up(i);
      case SourceWorker::kFrozen:
        if ((session.messages & kReadySaid) != 0) {
          now.messages &= static_cast<uint8_t>(~kReadySaid);
          now.source_worker = SourceWorker::kReady;
          follow(next, Cause::kOurs, "source hears Ready");
        }
        return give_up(i);
      case SourceWorker::kReady:
        now.source_worker = SourceWorker::kDeciding;
        now.source.visible = SessionState::kCommitted;
        follow(next, Cause::kOurs, "source is deciding");
        return give_up(i);
      case SourceWorker::kDeciding:
        return flush(
            next, i, Side::kSource,
            [&](World& w) { w.sessions.at(i).source_worker = SourceWorker::kDecided; },
            [&](World& w) { w.sessions.at(i).source_worker = SourceWorker::kGivenUp; }, "source has decided");
      case SourceWorker::kDecided:
        now.source_worker = SourceWorker::kAfter;
        if (session.connected) now.messages |= kCommitSaid;
        return follow(next, Cause::kOurs, "source says Commit");
      case SourceWorker::kAfter:
        return source_after(i);
      case SourceWorker::kGivenUp:
        return source_gives_up(i);
    }
  }
  // A deadline, a user, a disk: at any time before the decision.
  void give_up(size_t i) const {
    World next = world_;
    next.sessions.at(i).source_worker = SourceWorker::kGivenUp;
    follow(next, Cause::kOurs, "source gives up");
  }
  void source_gives_up(size_t i) const {
    World next = world_;
    Session& now = next.sessions.at(i);
    if (now.connected) now.messages |= kAbortSaid;
    const Copy copy = next.hosts.at(kSourceOf.at(i)).copy;
    execute(next, i, Side::kSource, rules_.source_move(SessionState::kUndecided, copy, Evidence::kSilence),
            true);
  }
  void source_after(size_t i) const {
    World next = world_;
    Session& now = next.sessions.at(i);
    const Copy copy = next.hosts.at(kSourceOf.at(i)).copy;
    if ((now.messages & kRunningSaid) != 0) {
      now.messages &= static_cast<uint8_t>(~kRunningSaid);
      now.heard_by_source = Evidence::kRan;
      return follow(next, Cause::kOurs, "source hears Running");
    }
    execute(next, i, Side::kSource, rules_.source_move(now.source.durable, copy, now.heard_by_source), true);
  }

  // ---- the target's worker
  void target_worker(size_t i) const {
    const Session& session = world_.sessions.at(i);
    World next = world_;
    Session& now = next.sessions.at(i);
    switch (session.target_worker) {
      case TargetWorker::kNone:
        return;
      case TargetWorker::kBuilding:
        if (session.source_worker == SourceWorker::kFrozen && session.connected) {
          now.target_worker = TargetWorker::kMayRun;
          if (rules_.may_run_before_ready) now.target.visible = SessionState::kMayRun;
          follow(next, Cause::kOurs, "target has the frozen layout");
        }
        return target_before_ready(i);
      case TargetWorker::kMayRun:
        return flush(
            next, i, Side::kTarget, [&](World& w) { say_ready(w, i); },
            [&](World& w) { w.sessions.at(i).target_worker = TargetWorker::kBuilding; }, "target says Ready");
      case TargetWorker::kHeld:
        return target_held(i);
    }
  }
  static void say_ready(World& world, size_t i) {
    Session& session = world.sessions.at(i);
    session.target_worker = TargetWorker::kHeld;
    world.hosts.at(kTargetOf.at(i)).copy = Copy::kHeld;
    if (session.connected) session.messages |= kReadySaid;
  }
  void target_before_ready(size_t i) const {
    const Session& session = world_.sessions.at(i);
    const bool ended = (session.messages & kAbortSaid) != 0 || !session.connected;
    if (!ended) return;
    World next = world_;
    next.sessions.at(i).messages &= static_cast<uint8_t>(~kAbortSaid);
    execute(next, i, Side::kTarget, target_gives_up(session.target.durable), true);
  }
  void target_held(size_t i) const {
    World next = world_;
    Session& now = next.sessions.at(i);
    Evidence evidence = now.heard_by_target;
    if ((now.messages & kCommitSaid) != 0) evidence = Evidence::kCommitted;
    if ((now.messages & kAbortSaid) != 0) evidence = Evidence::kAborted;
    const Copy copy = next.hosts.at(kTargetOf.at(i)).copy;
    Move move = rules_.target_move(now.target.durable, copy, evidence);
    // A worker that says Ready without the record runs it on Commit all the same: it knows nothing of
    // records.
    if (!rules_.may_run_before_ready && evidence == Evidence::kCommitted)
      move = {.before = {}, .order = Order::kLetRun, .after = SessionState::kRunning};
    if (move.order == Order::kLetRun && now.connected) now.messages |= kRunningSaid;
    execute_let_run(next, i, move);
  }
  // Running is said once the record says so.
  void execute_let_run(World& world, size_t i, const Move& move) const {
    if (move.order != Order::kLetRun || move.before) {
      world.sessions.at(i).messages &= static_cast<uint8_t>(~kRunningSaid);
      return execute(world, i, Side::kTarget, move, true);
    }
    World thawed = world;
    thawed.sessions.at(i).messages &= static_cast<uint8_t>(~(kRunningSaid | kCommitSaid));
    carry_out(thawed, i, move);
    follow(thawed, Cause::kOurs, "target lets it run");
    world.sessions.at(i).messages &= static_cast<uint8_t>(~kCommitSaid);
    carry_out(world, i, move);
    write(world, i, Side::kTarget, SessionState::kRunning);
    const bool connected = world.sessions.at(i).connected;
    conclude(world, i, Side::kTarget, true);
    world.sessions.at(i).connected = connected;
    follow(world, Cause::kOurs, "target lets it run and says so");
  }

  // ---- questions. Whoever has the session in hand asks; answers may come late, or never.
  void ask(size_t i, Side side) const {
    if (!under_way(world_, i, side)) return;
    const size_t asker = host_of(i, side);
    const size_t other = host_of(i, side == Side::kSource ? Side::kTarget : Side::kSource);
    if (!world_.hosts.at(other).agent) return;
    if (!world_.hosts.at(asker).agent && !worker_lives(world_, i, side)) return;
    bool busy = false;
    World next = world_;
    Session& now = next.sessions.at(i);
    if (side == Side::kSource) {
      const SessionState state = read(world_, i, Side::kTarget, busy);
      if (busy) return;
      now.heard_by_source = rules_.target_evidence(state, now.incarnation, seen(world_, other));
    } else {
      const SessionState state = read(world_, i, Side::kSource, busy);
      if (busy) return;
      now.heard_by_target = rules_.source_evidence(state, worker_lives(world_, i, Side::kSource));
    }
    follow(next, Cause::kOurs, "a question is answered");
  }

  // An agent that finds no worker at work on a session of its own.
  void settle(size_t i, Side side) const {
    const size_t place = host_of(i, side);
    if (!world_.hosts.at(place).agent || !under_way(world_, i, side) || worker_lives(world_, i, side)) return;
    World next = world_;
    Disk& disk = disk_of(next, i, side);
    // What the dead writer left is flushed first.
    if (disk.visible != disk.durable)
      return flush(
          next, i, side, [](World&) {}, [](World&) {}, "an agent flushes a record");
    const Session& session = next.sessions.at(i);
    const Copy copy = next.hosts.at(place).copy;
    const Move move = side == Side::kSource ? rules_.source_move(disk.durable, copy, session.heard_by_source)
                                            : rules_.target_move(disk.durable, copy, session.heard_by_target);
    execute(next, i, side, move, false);
  }

  // ---- faults
  [[nodiscard]] bool may_crash() const { return world_.crashes < budget_.crashes; }
  World crashed() const {
    World next = world_;
    ++next.crashes;
    return next;
  }
  void cut(size_t i) const {
    if (!world_.sessions.at(i).connected) return;
    World next = world_;
    next.sessions.at(i).connected = false;
    follow(next, Cause::kOurs, "the connection breaks; what was sent still comes");
    next.sessions.at(i).messages = 0;
    follow(next, Cause::kFault, "the connection breaks, and all that was sent is lost");
  }
  void kill_worker(size_t i, Side side) const {
    if (!may_crash() || !worker_lives(world_, i, side)) return;
    World next = crashed();
    end_worker(next, i, side);
    follow(next, Cause::kFault, side == Side::kSource ? "source's worker dies" : "target's worker dies");
  }
  static void end_worker(World& world, size_t i, Side side) {
    Session& session = world.sessions.at(i);
    session.connected = false;
    if (side == Side::kSource) {
      session.source_worker = SourceWorker::kNone;
      return;
    }
    // What was not held dies with its tracer.
    session.target_worker = TargetWorker::kNone;
  }
  void kill_replica(size_t i) const {
    Host host = world_.hosts.at(kTargetOf.at(i));
    if (!may_crash() || host.copy != Copy::kHeld || !under_way(world_, i, Side::kTarget)) return;
    World next = crashed();
    next.hosts.at(kTargetOf.at(i)).copy = Copy::kGoneUnrun;
    if (next.hosts.at(kSourceOf.at(i)).copy != Copy::kHeld) next.lost = true;
    follow(next, Cause::kFault, "the held replica is killed");
  }
  void agent(size_t host) const {
    World next = world_;
    if (!world_.hosts.at(host).agent) {
      next.hosts.at(host).agent = true;
      return follow(next, Cause::kOurs, "an agent is started again");
    }
    if (!may_crash()) return;
    next = crashed();
    next.hosts.at(host).agent = false;
    follow(next, Cause::kFault, "an agent dies");
  }
  void lose_power(size_t host) const {
    if (!may_crash()) return;
    World next = crashed();
    if (dies_with(world_, host)) next.lost = true;
    Host& place = next.hosts.at(host);
    place.agent = false;
    if (place.copy != Copy::kGone) place.copy = Copy::kGone;
    for (size_t i = 0; i < next.started; ++i)
      for (const Side side : {Side::kSource, Side::kTarget}) {
        if (host_of(i, side) != host) continue;
        if (worker_lives(next, i, side)) end_worker(next, i, side);
        disk_of(next, i, side).visible = disk_of(next, i, side).durable;
        // What it had heard is gone too.
        (side == Side::kSource ? next.sessions.at(i).heard_by_source : next.sessions.at(i).heard_by_target) =
            Evidence::kSilence;
      }
    follow(next, Cause::kFault, "a host loses power");
  }
  // Whether nobody else has what this host has.
  static bool dies_with(const World& world, size_t host) {
    const Host& place = world.hosts.at(host);
    if (place.copy == Copy::kRuns) return true;
    if (world.started == 0) return false;
    const size_t i = world.started - 1U;
    const Session& session = world.sessions.at(i);
    const bool committed = session.source.durable == SessionState::kCommitted;
    const Copy replica = world.hosts.at(kTargetOf.at(i)).copy;
    if (host == kSourceOf.at(i) && place.copy == Copy::kHeld)
      return !committed || replica == Copy::kGone || replica == Copy::kGoneUnrun;
    if (host != kTargetOf.at(i) || !committed) return false;
    // Of an armed replica nobody can say afterwards that it did not run.
    if (session.target.durable == SessionState::kArmed) return true;
    return place.copy == Copy::kHeld && world.hosts.at(kSourceOf.at(i)).copy != Copy::kHeld;
  }
  // Records of what has run go after a time, whether or not the other side has heard.
  void forget(size_t i, Side side) const {
    if (under_way(world_, i, side) || worker_lives(world_, i, side)) return;
    World next = world_;
    Disk& disk = disk_of(next, i, side);
    if (disk.durable != SessionState::kRunning && disk.durable != SessionState::kDeparted) return;
    disk = {};
    follow(next, Cause::kFault, "an old record is forgotten");
  }

  const World& world_;
  const Rules& rules_;
  const Budget& budget_;
  const Successor& successor_;
};

}  // namespace

size_t WorldHash::operator()(const World& world) const {
  static_assert(std::has_unique_object_representations_v<World>);
  return XXH3_64bits(&world, sizeof world);
}

void for_each_successor(const World& world, const Rules& rules, const Budget& budget,
                        const Successor& successor) {
  Step(world, rules, budget, successor).all();
}

World first_world() {
  World world;
  world.hosts[0].copy = Copy::kRuns;
  world.hosts[0].incarnation = world.hosts[0].highest = 1;
  world.hosts[0].keeper = Keeper::kRuns;
  return world;
}

std::string violation(const World& world) {
  if (world.deleted) return "a container is deleted after the decision";
  size_t running = 0;
  for (const Host& host : world.hosts) running += host.copy == Copy::kRuns ? 1 : 0;
  if (running > 1) return "two run";
  for (const Session& session : world.sessions)
    if (session.target_ran && session.source_went_on)
      return "it ran at the target, and goes on at the source";
  return "";
}

bool is_settled(const World& world) {
  size_t running = 0;
  for (const Host& host : world.hosts) {
    if (host.keeper == Keeper::kMigrates || host.keeper == Keeper::kArrives || !host.agent) return false;
    if (host.copy == Copy::kHeld) return false;
    if (host.copy == Copy::kRuns && host.keeper != Keeper::kRuns) return false;
    running += host.copy == Copy::kRuns ? 1 : 0;
  }
  return running == 1 || (running == 0 && world.lost);
}

std::string describe(const World& world) {
  std::string text;
  for (size_t i = 0; i < kHosts; ++i) {
    const Host& host = world.hosts.at(i);
    text += fmt::format("{}: {} {} keeper {}{}{}; ", static_cast<char>('A' + i), to_string(host.copy),
                        host.incarnation, static_cast<int>(host.keeper),
                        host.keeper == Keeper::kMigrates || host.keeper == Keeper::kArrives
                            ? fmt::format(" session {}", host.session)
                            : "",
                        host.agent ? "" : " agent dead");
  }
  for (size_t i = 0; i < world.started; ++i) {
    const Session& s = world.sessions.at(i);
    text += fmt::format("session {}: {}/{} and {}/{}, workers {} {}, messages {}, heard {} {}{}; ", i,
                        to_string(s.source.visible), to_string(s.source.durable), to_string(s.target.visible),
                        to_string(s.target.durable), static_cast<int>(s.source_worker),
                        static_cast<int>(s.target_worker), s.messages, to_string(s.heard_by_source),
                        to_string(s.heard_by_target), s.connected ? "" : ", cut");
  }
  return text + (world.lost ? "lost" : "");
}

}  // namespace godwit::engine::model_check
