// Following the processes of the container, and holding their threads.
#include <linux/kcmp.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <set>

#include "runtime/kernel/thread_state.h"
#include "runtime/process/capture/session.h"
#include "runtime/process/tracer_thread.h"

namespace godwit::runtime {
namespace {

// Rounds of "list, seize" until nothing new comes; a process that forks faster than this cannot be caught
// without a cgroup freezer.
constexpr int kSeizeRoundsMax = 64;
// How long the leader of a process that runs may take to stop. Nobody waits but we.
constexpr int64_t kVisitMs = 100;
// The same for one that did not stop in time for a freeze: its child ends or executes a program by then.
constexpr int64_t kStragglerMs = 100;
// For a process whose leader is in vfork(2) when all is over; each takes kVisitMs.
constexpr int kLeaveAttemptsMax = 10;

bool is_gone(const Error& error) {
  return error.code == ESRCH || error.code == ENOENT;
}

}  // namespace

CaptureSession::~CaptureSession() {
  static_cast<void>(thaw());
  if (!dismantled_) static_cast<void>(leave());
}

Result<std::vector<pid_t>> CaptureSession::list_pids() const {
  if (options_.list_cgroup) return options_.list_cgroup();
  return list_tree(options_.init_pid);
}

Result<void> CaptureSession::refresh_members() {
  static_cast<void>(let_stragglers_go(Deadline::in_ms(0)));  // freeze() says so if one is left
  GODWIT_ASSIGN(const auto pids, list_pids());
  struct Seen {
    pid_t pid;
    pid_t parent;
    uint64_t start_time;
  };
  std::vector<Seen> seen;
  for (const pid_t pid : pids) {
    const auto stat = read_stat(pid);
    if (!stat.has_value()) continue;  // it has ended
    seen.push_back({.pid = pid, .parent = stat->parent, .start_time = stat->start_time});
  }
  if (std::ranges::find(seen, options_.init_pid, &Seen::pid) == seen.end())
    return fail("find the container's init", "pid " + std::to_string(options_.init_pid), ESRCH,
                "it has ended");

  // Parents first: a process is placed when its parent is, or when its parent is not of the container.
  std::vector<Seen> ordered;
  std::set<pid_t> placed, waiting;
  for (const auto& one : seen) waiting.insert(one.pid);
  for (bool progress = true; progress && ordered.size() < seen.size();) {
    progress = false;
    for (const auto& one : seen) {
      if (placed.contains(one.pid)) continue;
      if (one.pid != options_.init_pid && (!placed.contains(options_.init_pid) ||
                                           (waiting.contains(one.parent) && !placed.contains(one.parent))))
        continue;
      placed.insert(one.pid);
      ordered.push_back(one);
      progress = true;
    }
  }

  std::vector<std::unique_ptr<Member>> members;
  for (const auto& one : ordered) {
    const auto known = std::ranges::find_if(members_, [&](const auto& member) {
      return member != nullptr && member->process.host_pid == one.pid && member->start_time == one.start_time;
    });
    if (known != members_.end()) {
      (*known)->parent = one.parent;
      members.push_back(std::move(*known));
      continue;
    }
    const auto status = read_status(one.pid);
    if (!status.has_value()) continue;
    auto member = std::make_unique<Member>();
    member->process = {.host_pid = one.pid, .container_pid = status->namespace_pids.back()};
    member->start_time = one.start_time;
    member->parent = one.parent;
    members.push_back(std::move(member));
  }
  for (const auto& member : members_) {
    if (member == nullptr) continue;
    for (const auto& [tid, puppet] : member->threads) puppet->abandon();
    mappings_.forget(member->process.host_pid);
  }
  members_ = std::move(members);
  look_for_shared_memory();
  return {};
}

// A child of vfork(2) uses its parent's memory until it executes a program.
void CaptureSession::look_for_shared_memory() {
  std::map<pid_t, Member*> by_pid;
  for (const auto& member : members_) {
    member->shares_with_child = member->shares_with_parent = false;
    by_pid.emplace(member->process.host_pid, member.get());
  }
  for (const auto& member : members_) {
    const auto parent = by_pid.find(member->parent);
    if (parent == by_pid.end() ||
        ::syscall(SYS_kcmp, member->process.host_pid, member->parent, KCMP_VM, 0, 0) != 0)
      continue;
    parent->second->shares_with_child = member->shares_with_parent = true;
  }
}

Result<bool> CaptureSession::seize_threads(Member& member, std::vector<Puppet*>& fresh) {
  const auto threads = list_threads(member.process.host_pid);
  if (!threads.has_value()) return false;
  bool found = false;
  for (const pid_t tid : *threads) {
    if (member.threads.contains(tid)) continue;
    // It would not stop, and could not be let go while it does not.
    if (member.shares_with_child && waits_in_vfork(tid)) {
      in_vfork_ = Error{.operation = "stop", .object = thread_name(tid), .code = EAGAIN, .hint = kInVfork};
      continue;
    }
    auto puppet = Puppet::seize(tid);
    if (!puppet.has_value()) {
      if (is_gone(puppet.error())) continue;
      const auto stat = read_stat(tid);
      if (!stat.has_value() || stat->state == 'Z' || stat->state == 'X') continue;
      return std::unexpected(puppet.error());
    }
    if (member.scratch.valid()) (*puppet)->adopt_scratch(member.scratch);
    (*puppet)->set_patience_ms(kAnswerMs);
    fresh.push_back(puppet->get());
    member.threads[tid] = *std::move(puppet);
    found = true;
  }
  return found;
}

Result<bool> CaptureSession::seize_newcomers(std::vector<Puppet*>& fresh) {
  GODWIT_TRY(refresh_members());
  bool found = false;
  for (auto& member : members_) {
    GODWIT_ASSIGN(const bool some, seize_threads(*member, fresh));
    found = found || some;
  }
  return found;
}

// All of them have been interrupted, so the waits overlap.
Result<void> CaptureSession::await_stops(const std::vector<Puppet*>& fresh) {
  std::set<pid_t> dead;
  for (Puppet* puppet : fresh) {
    const auto stopped = puppet->wait_stopped(Deadline::in_ms(kStopMs));
    if (stopped.has_value()) continue;
    if (!is_gone(stopped.error()) && stopped.error().code != ECHILD) return std::unexpected(stopped.error());
    dead.insert(puppet->tid());
  }
  for (auto& member : members_)
    std::erase_if(member->threads, [&](const auto& entry) { return dead.contains(entry.first); });
  return {};
}

namespace {

std::unexpected<Error> too_many_newcomers() {
  return refuse("freeze", "the container", "new threads appear faster than they can be stopped");
}

}  // namespace

// Threads come while others are being stopped: until a look finds none that is not held.
Result<void> CaptureSession::freeze_running() {
  for (int round = 0; round < kSeizeRoundsMax; ++round) {
    std::vector<Puppet*> fresh;
    GODWIT_ASSIGN(const bool found, seize_newcomers(fresh));
    if (!found) return {};
    GODWIT_TRY(await_stops(fresh));
  }
  return too_many_newcomers();
}

// Nobody runs, so nobody comes, and what is in vfork(2) stays there. They stop when the cgroup lets them go
// (tasks that the v1 freezer holds do not sooner), before they do anything else.
Result<void> CaptureSession::freeze_in_cgroup() {
  GODWIT_TRY(options_.freeze_cgroup());
  cgroup_frozen_ = true;
  std::vector<Puppet*> fresh;
  for (int round = 0;; ++round) {
    if (round == kSeizeRoundsMax) return too_many_newcomers();
    GODWIT_ASSIGN(const bool found, seize_newcomers(fresh));
    if (!found) break;
  }
  GODWIT_TRY(options_.thaw_cgroup());
  cgroup_frozen_ = false;
  return await_stops(fresh);
}

Result<void> CaptureSession::freeze_held() {
  GODWIT_TRY(let_stragglers_go(Deadline::in_ms(0)));
  in_vfork_.reset();
  GODWIT_TRY(options_.freeze_cgroup ? freeze_in_cgroup() : freeze_running());
  // Only now: all others had to be held, so that thaw() can undo what their interruption has done to them.
  if (in_vfork_) return std::unexpected(*in_vfork_);
  return {};
}

Result<void> CaptureSession::freeze() {
  if (frozen_) return refuse("freeze", "the container", "it is frozen already");
  frozen_ = true;
  frozen_memory_.reset();
  auto result = freeze_held();
  if (!result.has_value()) static_cast<void>(thaw());
  return result;
}

Result<void> CaptureSession::let_go(Puppet& puppet) {
  auto released = release_unnoticed(puppet);
  if (!released.has_value() && is_gone(released.error())) {
    puppet.abandon();
    return {};
  }
  return released;
}

Result<void> CaptureSession::thaw() {
  Result<void> result;
  const auto keep_first = [&](Result<void> step) {
    if (result.has_value() && !step.has_value()) result = std::move(step);
  };
  if (frozen_ && descriptors_ != nullptr) keep_first(descriptors_->undo());
  for (auto& member : members_) {
    for (auto& [tid, puppet] : member->threads) {
      auto gone_on = let_go(*puppet);
      if (!gone_on.has_value() && gone_on.error().code == EAGAIN)
        stragglers_.push_back(std::move(puppet));
      else
        keep_first(std::move(gone_on));
    }
    member->threads.clear();
  }
  if (cgroup_frozen_ && options_.thaw_cgroup) keep_first(options_.thaw_cgroup());
  cgroup_frozen_ = frozen_ = false;
  keep_first(let_stragglers_go(Deadline::in_ms(kStragglerMs)));
  return result;
}

// What a visit left in each process is taken out of it in another.
Result<void> CaptureSession::leave() {
  Result<void> result;
  for (auto& member : members_) {
    const auto stat = read_stat(member->process.host_pid);
    const bool same = stat.has_value() && stat->start_time == member->start_time;
    if (!member->scratch.valid() || !same) continue;
    auto removed = drop_scratch_of(*member);
    for (int i = 1; i < kLeaveAttemptsMax && !removed.has_value() && removed.error().code == EAGAIN; ++i)
      removed = drop_scratch_of(*member);
    if (!removed.has_value() && !is_gone(removed.error()) && result.has_value()) result = std::move(removed);
  }
  return result;
}

Result<void> CaptureSession::drop_scratch_of(Member& member) {
  GODWIT_TRY(with_leader(member, [&](Puppet& leader) -> Result<void> {
    if (!leader.has_code(member.scratch)) return {};  // it executes another program
    leader.adopt_scratch(member.scratch);
    return leader.drop_scratch();
  }));
  member.scratch = {};
  return {};
}

Result<void> CaptureSession::let_stragglers_go(Deadline deadline) {
  Result<void> result;
  std::erase_if(stragglers_, [&](const auto& puppet) {
    auto stopped = puppet->wait_stopped(deadline);
    if (!stopped.has_value() && is_gone(stopped.error())) return true;
    if (stopped.has_value()) stopped = let_go(*puppet);
    if (!stopped.has_value() && result.has_value()) result = stopped;
    return stopped.has_value();
  });
  return result;
}

// A scratch is lost when the process executes another program.
Result<void> CaptureSession::ensure_scratch(Member& member, Puppet& puppet) {
  if (member.scratch.valid()) {
    const bool there = puppet.has_code(member.scratch);
    if (there) {
      puppet.adopt_scratch(member.scratch);
      return {};
    }
    puppet.adopt_scratch({});
  }
  GODWIT_TRY(puppet.make_scratch(kCaptureScratchSize, false));
  member.scratch = puppet.scratch();
  for (auto& [tid, other] : member.threads) other->adopt_scratch(member.scratch);
  return {};
}

Result<void> CaptureSession::visit(
    Member& member, Puppet& leader,
    const std::function<Result<void>(const CapturedProcess&, Puppet&)>& visitor) {
  static_cast<void>(restarts_.resumable(leader.tid(), leader.registers()));  // remembers its system call
  GODWIT_TRY(ensure_scratch(member, leader));
  GODWIT_TRY(visitor(member.process, leader));
  member.visited = true;
  return {};
}

// On a thread of its own, which is the tracer and ends with the visit: so the kernel lets a leader go that
// does not stop in time, whatever it waits in, and one that does not come back from its calls finishes them
// alone (puppet.h).
Result<void> CaptureSession::with_leader(const Member& member, const LeaderStep& step) {
  Result<void> outcome;
  run_as_tracer([&] { outcome = stop_leader(member, step); });
  return outcome;
}

Result<void> CaptureSession::stop_leader(const Member& member, const LeaderStep& step) {
  auto leader = Puppet::seize(member.process.host_pid);
  if (!leader.has_value()) {
    // That one is ending is told like that, too.
    const char state = thread_state(member.process.host_pid);
    if (state == '?' || state == 'Z' || state == 'X') leader.error().code = ESRCH;
    return std::unexpected(leader.error());
  }
  (*leader)->set_patience_ms(kAnswerMs);
  auto outcome = (*leader)->wait_stopped(Deadline::in_ms(kVisitMs));
  if (!outcome.has_value()) {
    (*leader)->abandon();
    return outcome;
  }
  outcome = step(**leader);
  if (!(*leader)->stopped()) {
    (*leader)->abandon();
    return outcome;
  }
  auto gone_on = let_go(**leader);
  return outcome.has_value() ? gone_on : outcome;
}

// A process whose leader does not stop now is visited later: in another round, or when all are frozen.
Result<void> CaptureSession::visit_new_processes(
    const std::function<Result<void>(const CapturedProcess&, Puppet&)>& visitor) {
  if (!frozen_) GODWIT_TRY(refresh_members());
  for (auto& member : members_) {
    if (member->visited) continue;
    if (Puppet* leader = member->leader(); leader != nullptr) {
      GODWIT_TRY(visit(*member, *leader, visitor));
      continue;
    }
    if (frozen_)
      return fail("visit", "pid " + std::to_string(member->process.container_pid), EAGAIN, "it is a zombie");
    const bool in_vfork = member->shares_with_child && waits_in_vfork(member->process.host_pid);
    const bool ours = std::ranges::any_of(
        stragglers_, [&](const auto& puppet) { return puppet->tid() == member->process.host_pid; });
    if (in_vfork || member->shares_with_parent || ours) continue;
    const auto visited =
        with_leader(*member, [&](Puppet& leader) { return visit(*member, leader, visitor); });
    if (!visited.has_value() && visited.error().code != EAGAIN && !is_gone(visited.error())) return visited;
  }
  return {};
}

std::vector<CapturedProcess> CaptureSession::processes() const {
  std::vector<CapturedProcess> result;
  result.reserve(members_.size());
  for (const auto& member : members_) result.push_back(member->process);
  return result;
}

}  // namespace godwit::runtime
