// Following the processes of the container, and holding their threads.
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <set>

#include "runtime/process/capture/session.h"

namespace godwit::runtime {
namespace {

// Rounds of "list, seize" until nothing new comes; a process that forks faster than this cannot be caught
// without a cgroup freezer.
constexpr int kSeizeRoundsMax = 64;

bool is_gone(const Error& error) {
  return error.code == ESRCH || error.code == ENOENT;
}

}  // namespace

Result<std::vector<pid_t>> CaptureSession::list_pids() const {
  if (options_.list_cgroup) return options_.list_cgroup();
  return list_tree(options_.init_pid);
}

Result<void> CaptureSession::refresh_members() {
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
      members.push_back(std::move(*known));
      continue;
    }
    const auto status = read_status(one.pid);
    if (!status.has_value()) continue;
    auto member = std::make_unique<Member>();
    member->process = {.host_pid = one.pid, .container_pid = status->namespace_pids.back()};
    member->start_time = one.start_time;
    members.push_back(std::move(member));
  }
  for (const auto& member : members_) {
    if (member == nullptr) continue;
    for (const auto& [tid, puppet] : member->threads) puppet->abandon();
    mappings_.forget(member->process.host_pid);
  }
  members_ = std::move(members);
  return {};
}

Result<bool> CaptureSession::seize_threads(Member& member, std::vector<Puppet*>& fresh) {
  const auto threads = list_threads(member.process.host_pid);
  if (!threads.has_value()) return false;
  bool found = false;
  for (const pid_t tid : *threads) {
    if (member.threads.contains(tid)) continue;
    auto puppet = Puppet::seize(tid);
    if (!puppet.has_value()) {
      if (is_gone(puppet.error())) continue;
      const auto stat = read_stat(tid);
      if (!stat.has_value() || stat->state == 'Z' || stat->state == 'X') continue;
      return std::unexpected(puppet.error());
    }
    if (member.scratch.valid()) (*puppet)->adopt_scratch(member.scratch);
    fresh.push_back(puppet->get());
    member.threads[tid] = *std::move(puppet);
    found = true;
  }
  return found;
}

Result<bool> CaptureSession::seize_newcomers() {
  GODWIT_TRY(refresh_members());
  bool found = false;
  std::vector<Puppet*> fresh;
  for (auto& member : members_) {
    GODWIT_ASSIGN(const bool some, seize_threads(*member, fresh));
    found = found || some;
  }
  std::set<pid_t> dead;
  for (Puppet* puppet : fresh) {
    const auto stopped = puppet->wait_stopped();
    if (stopped.has_value()) continue;
    if (!is_gone(stopped.error()) && stopped.error().code != ECHILD) return std::unexpected(stopped.error());
    dead.insert(puppet->tid());
  }
  for (auto& member : members_)
    std::erase_if(member->threads, [&](const auto& entry) { return dead.contains(entry.first); });
  return found;
}

Result<void> CaptureSession::freeze_held() {
  if (options_.freeze_cgroup) {
    GODWIT_TRY(options_.freeze_cgroup());
    cgroup_frozen_ = true;
  }
  for (int round = 0; round < kSeizeRoundsMax; ++round) {
    GODWIT_ASSIGN(const bool found, seize_newcomers());
    if (found) continue;
    if (cgroup_frozen_) {
      GODWIT_TRY(options_.thaw_cgroup());
      cgroup_frozen_ = false;
    }
    return {};
  }
  return refuse("freeze", "the container", "new threads appear faster than they can be stopped");
}

Result<void> CaptureSession::freeze() {
  if (frozen_) return refuse("freeze", "the container", "it is frozen already");
  frozen_ = true;
  frozen_memory_.reset();
  auto result = freeze_held();
  if (!result.has_value()) static_cast<void>(thaw());
  return result;
}

Result<void> CaptureSession::thaw() {
  Result<void> result;
  const auto keep_first = [&](Result<void> step) {
    if (result.has_value() && !step.has_value()) result = std::move(step);
  };
  if (frozen_ && descriptors_ != nullptr) keep_first(descriptors_->undo());
  for (auto& member : members_) {
    for (auto& [tid, puppet] : member->threads) {
      user_regs_struct registers = puppet->registers();
      if (RestartMemory::forget_interruption(registers)) puppet->set_registers(registers);
      auto released = puppet->release();
      if (released.has_value() || is_gone(released.error())) {
        puppet->abandon();
      } else {
        keep_first(std::move(released));
      }
    }
    member->threads.clear();
  }
  if (cgroup_frozen_ && options_.thaw_cgroup) keep_first(options_.thaw_cgroup());
  cgroup_frozen_ = frozen_ = false;
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
    auto leader = Puppet::seize(member->process.host_pid);
    if (!leader.has_value()) {
      if (is_gone(leader.error())) continue;
      const auto stat = read_stat(member->process.host_pid);
      if (!stat.has_value() || stat->state == 'Z') continue;
      return std::unexpected(leader.error());
    }
    const auto stopped = (*leader)->wait_stopped();
    if (!stopped.has_value()) {
      if (is_gone(stopped.error())) continue;
      return stopped;
    }
    const auto visited = visit(*member, **leader, visitor);
    user_regs_struct registers = (*leader)->registers();
    if (RestartMemory::forget_interruption(registers)) (*leader)->set_registers(registers);
    const auto released = (*leader)->release();
    if (!visited.has_value() && !is_gone(visited.error())) return visited;
    if (!released.has_value() && !is_gone(released.error())) return released;
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
