// Process tree: fork(2)s with exact pids, sessions, process groups, and deaths.
//
// A process gets its session from the process that forks it, so the order of forks and setsid(2)s must allow
// for that: children of the old session first, then setsid, then the rest. A process whose parent is the
// container's reaper, but whose session is another's, was orphaned at the source; it is made the same way
// here: forked by a helper that a member of its session forks, and which then dies.
#include <linux/sched.h>
#include <signal.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <map>
#include <set>
#include <utility>

#include "base/fd.h"
#include "runtime/process/replica/member.h"

namespace godwit::runtime::rebuild {
namespace {

using Wanted = std::map<uint32_t, const model::Process*>;

bool is_orphan_of(const Member& member, const model::Process& wanted, const std::set<uint32_t>& gone) {
  return gone.contains(member.parent) && wanted.parent_pid() == 1;
}

// Whether a living process can become what is wanted of it.
bool can_become(const Member& member, const model::Process& wanted, const std::set<uint32_t>& gone,
                const std::set<uint32_t>& anew) {
  if (wanted.parent_pid() != member.parent && !is_orphan_of(member, wanted, gone)) return false;
  if (anew.contains(member.parent) || anew.contains(member.session)) return false;
  if (wanted.session() == member.session) {
    // A session leader's group is its own for good.
    return member.session != member.pid || wanted.process_group() == member.pid;
  }
  return wanted.session() == member.pid && member.process_group != member.pid;
}

// Processes to kill: those that ended at the source, and those that have to be made anew.
std::set<uint32_t> find_doomed(const Members& members, const Wanted& wanted) {
  std::set<uint32_t> gone;
  std::set<uint32_t> anew;
  for (const auto& member : members) {
    if (!wanted.contains(member->pid)) gone.insert(member->pid);
  }
  for (bool found = true; found;) {
    found = false;
    for (const auto& member : members) {
      if (gone.contains(member->pid) || anew.contains(member->pid) || member->parent == 0) continue;
      if (can_become(*member, *wanted.at(member->pid), gone, anew)) continue;
      anew.insert(member->pid);
      found = true;
    }
  }
  gone.insert(anew.begin(), anew.end());
  return gone;
}

// Waits for dead children in the process that is their parent, and drops the SIGCHLDs they caused.
Result<void> reap(Member& parent, size_t children) {
  CallBatch batch;
  const auto none = batch.object(timespec{});
  const auto child_signal = batch.object(uint64_t{1} << (SIGCHLD - 1));
  for (size_t i = 0; i < children; i++) {
    batch.call_may_fail(SYS_wait4, {-1, 0, WNOHANG | __WALL, 0});
    batch.call_may_fail(SYS_rt_sigtimedwait, {child_signal, 0, none, sizeof(uint64_t)});
  }
  return parent.leader().run(batch);
}

Result<void> remove_doomed(Members& members, const Wanted& wanted) {
  const std::set<uint32_t> doomed = find_doomed(members, wanted);
  if (doomed.empty()) return {};
  if (doomed.contains(1)) {
    return refuse("reconcile processes", "pid 1", "the container's init cannot be replaced");
  }
  std::set<uint32_t> parents{1};
  for (auto& member : members) {
    if (!doomed.contains(member->pid)) continue;
    GODWIT_TRY(kill_member(*member));
    parents.insert(member->parent);
  }
  std::erase_if(members, [&](auto& member) { return doomed.contains(member->pid); });
  for (auto& member : members) {
    if (doomed.contains(member->parent)) member->parent = 1;
    if (parents.contains(member->pid)) GODWIT_TRY(reap(*member, doomed.size()));
  }
  return {};
}

Member& add_child(Members& members, const Member& creator, const model::Process& wanted,
                  std::unique_ptr<Puppet> puppet) {
  auto child = std::make_unique<Member>();
  child->pid = wanted.pid();
  child->parent = wanted.parent_pid();
  child->session = creator.session;
  child->process_group = creator.process_group;
  child->host_pid = puppet->tid();
  child->threads.push_back({wanted.pid(), std::move(puppet)});
  members.push_back(std::move(child));
  return *members.back();
}

Result<void> fork_child(Members& members, Member& parent, const model::Process& wanted) {
  GODWIT_ASSIGN(auto puppet, spawn(parent.leader(), wanted.pid()));
  add_child(members, parent, wanted, std::move(puppet));
  return {};
}

// Forks `wanted` from a helper that a member of its session forks, and lets the helper die.
Result<void> fork_orphan(Members& members, Member& origin, Member& reaper, const model::Process& wanted,
                         uint32_t free_pid) {
  Member helper;
  helper.pid = free_pid;
  GODWIT_ASSIGN(auto helper_puppet, spawn(origin.leader(), free_pid));
  helper.host_pid = helper_puppet->tid();
  helper.threads.push_back({free_pid, std::move(helper_puppet)});
  auto puppet = spawn(helper.leader(), wanted.pid());
  GODWIT_TRY(kill_member(helper));
  GODWIT_TRY(reap(origin, 1));
  if (!puppet.has_value()) return std::unexpected(std::move(puppet).error());
  const Member& child = add_child(members, origin, wanted, *std::move(puppet));

  GODWIT_ASSIGN(const auto status, read_file("/proc/" + std::to_string(child.host_pid) + "/status"));
  if (status.find("\nPPid:\t" + std::to_string(reaper.host_pid) + "\n") == std::string::npos) {
    return refuse("reparent", child.name(),
                  "its orphan went to another process than pid " + std::to_string(reaper.pid));
  }
  return {};
}

Result<void> make_session(Member& member) {
  GODWIT_TRY(member.leader().call(SYS_setsid, {}, "setsid of " + member.name()));
  member.session = member.pid;
  member.process_group = member.pid;
  return {};
}

// Makes processes until all are there, or nothing more can be made.
class TreeBuilder {
 public:
  TreeBuilder(Members& members, const model::Snapshot& snapshot) : members_(members) {
    for (const model::Process& process : snapshot.processes()) {
      wanted_[process.pid()] = &process;
      free_pid_ = std::max(free_pid_, process.pid() + 1);
      for (const model::Thread& thread : process.threads()) free_pid_ = std::max(free_pid_, thread.tid() + 1);
      if (find_member(members, process.pid()) == nullptr) missing_.push_back(&process);
    }
  }

  Result<void> build() {
    for (bool progress = true; progress;) {
      progress = false;
      for (auto& process : missing_) {
        GODWIT_ASSIGN(const bool made, try_make(*process));
        if (made) process = nullptr;
        progress |= made;
      }
      std::erase(missing_, nullptr);
      GODWIT_ASSIGN(const bool sessions, make_sessions());
      progress |= sessions;
    }
    if (!missing_.empty()) {
      const model::Process& first = *missing_.front();
      return refuse("create process", "pid " + std::to_string(first.pid()),
                    "no living process can fork it into session " + std::to_string(first.session()) +
                        " as a child of pid " + std::to_string(first.parent_pid()));
    }
    return check_sessions();
  }

 private:
  Result<bool> try_make(const model::Process& process) {
    Member* parent = find_member(members_, process.parent_pid());
    if (parent == nullptr) return false;
    if (process.session() == parent->session || process.session() == process.pid()) {
      GODWIT_TRY(fork_child(members_, *parent, process));
      return true;
    }
    if (wanted_.at(parent->pid)->session() == process.session()) return false;  // after the parent's setsid
    Member* origin = find_member(members_, process.session());
    const bool reaper = parent->pid == 1 || wanted_.at(parent->pid)->child_subreaper();
    if (origin == nullptr || origin->session != process.session() || !reaper) return false;
    if (parent->pid != 1) {
      constexpr int kSetChildSubreaper = 36;  // PR_SET_CHILD_SUBREAPER
      GODWIT_TRY(parent->leader().call(SYS_prctl, {kSetChildSubreaper, 1, 0, 0, 0}, "become a subreaper"));
    }
    GODWIT_TRY(fork_orphan(members_, *origin, *parent, process, free_pid_));
    return true;
  }

  // A process leaves its inherited session when no child has to be forked in it any more.
  Result<bool> make_sessions() {
    bool progress = false;
    for (auto& member : members_) {
      if (wanted_.at(member->pid)->session() != member->pid || member->session == member->pid) continue;
      const bool needed = std::any_of(missing_.begin(), missing_.end(), [&](const model::Process* process) {
        return process->parent_pid() == member->pid && process->session() == member->session;
      });
      if (needed) continue;
      GODWIT_TRY(make_session(*member));
      progress = true;
    }
    return progress;
  }

  Result<void> check_sessions() const {
    for (const auto& member : members_) {
      if (member->session != wanted_.at(member->pid)->session()) {
        return refuse("create process", member->name(),
                      "it cannot join session " + std::to_string(wanted_.at(member->pid)->session()));
      }
    }
    return {};
  }

  Members& members_;
  Wanted wanted_;
  std::vector<const model::Process*> missing_;
  uint32_t free_pid_ = 2;
};

// Group leaders first; then the others can join.
Result<void> reconcile_groups(Members& members, const Wanted& wanted) {
  for (const bool leaders : {true, false}) {
    for (auto& member : members) {
      const uint32_t group = wanted.at(member->pid)->process_group();
      if (member->process_group == group || (group == member->pid) != leaders) continue;
      GODWIT_TRY(member->leader().call(SYS_setpgid, {0, leaders ? 0 : group},
                                       "setpgid of " + member->name() + " to " + std::to_string(group)));
      member->process_group = group;
    }
  }
  return {};
}

}  // namespace

Member* find_member(const Members& members, uint32_t pid) {
  for (const auto& member : members) {
    if (member->pid == pid) return member.get();
  }
  return nullptr;
}

uint64_t replica_trace_options() {
  return PTRACE_O_EXITKILL | PTRACE_O_TRACECLONE | PTRACE_O_TRACEFORK | PTRACE_O_TRACEVFORK |
         PTRACE_O_SUSPEND_SECCOMP;
}

Result<std::unique_ptr<Puppet>> spawn(Puppet& creator, uint32_t pid) {
  CallBatch batch;
  const auto tid = batch.object(pid);
  clone_args arguments{};
  arguments.set_tid_size = pid != 0 ? 1 : 0;
  arguments.exit_signal = SIGCHLD;
  const auto place = batch.object(arguments);
  if (pid != 0) batch.link(place, offsetof(clone_args, set_tid), tid);
  batch.call(SYS_clone3, {place, sizeof arguments}, "clone3 of pid " + std::to_string(pid));
  static_cast<void>(creator.take_newborn());
  auto made = creator.run(batch);
  const std::vector<pid_t> born = creator.take_newborn();
  if (made.has_value() && born.size() != 1)
    made = refuse("create", "pid " + std::to_string(pid), "the kernel did not report the new process");
  std::unique_ptr<Puppet> puppet;
  if (made.has_value()) {
    puppet = Puppet::adopt(born.front(), replica_trace_options());
    made = puppet->wait_stopped();
  }
  if (!made.has_value()) {
    // Nobody else knows of it; that it does not end would be less of a reason than what has failed.
    for (const pid_t host_pid : born) static_cast<void>(kill_process(host_pid));
    return std::unexpected(std::move(made).error());
  }
  puppet->adopt_scratch(creator.scratch());
  return puppet;
}

Result<void> reconcile_tree(Members& members, const model::Snapshot& snapshot) {
  Wanted wanted;
  for (const model::Process& process : snapshot.processes()) wanted[process.pid()] = &process;
  GODWIT_TRY(remove_doomed(members, wanted));
  TreeBuilder builder(members, snapshot);
  GODWIT_TRY(builder.build());
  return reconcile_groups(members, wanted);
}

}  // namespace godwit::runtime::rebuild
