// Threads of a process: made with their exact tids, removed when they ended at the source.
#include <linux/sched.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <set>

#include "runtime/process/replica/member.h"

namespace godwit::runtime::rebuild {
namespace {

constexpr uint64_t kThreadFlags =
    CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM;

// All missing threads by one batch: clone3(2) stops each before its first instruction.
Result<void> create_threads(Member& member, const std::vector<uint32_t>& tids) {
  CallBatch batch;
  const auto stack = batch.room(64);  // a place to name; the registers are set before the thread runs
  for (const uint32_t tid : tids) {
    clone_args arguments{};
    arguments.flags = kThreadFlags;
    arguments.stack_size = 64;
    arguments.set_tid_size = 1;
    const auto tid_place = batch.object(tid);
    const auto place = batch.object(arguments);
    batch.link(place, offsetof(clone_args, set_tid), tid_place);
    batch.link(place, offsetof(clone_args, stack), stack);
    batch.call(SYS_clone3, {place, sizeof arguments},
               "clone3 of thread " + std::to_string(tid) + " of " + member.name());
  }
  static_cast<void>(member.leader().take_newborn());
  GODWIT_TRY(member.leader().run(batch));
  const std::vector<pid_t> born = member.leader().take_newborn();
  if (born.size() != tids.size()) {
    return refuse("create threads", member.name(), "the kernel did not report all new threads");
  }
  for (size_t i = 0; i < tids.size(); i++) {
    auto puppet = Puppet::adopt(born[i], replica_trace_options());
    GODWIT_TRY(puppet->wait_stopped());
    puppet->adopt_scratch(member.leader().scratch());
    member.threads.push_back({tids[i], std::move(puppet)});
  }
  return {};
}

// exit(2) of this thread alone; the puppet notices that it never stops again, and forgets it.
Result<void> end_thread(const Member& member, MemberThread& thread) {
  CallBatch batch;
  batch.call_may_fail(SYS_exit, {0});
  const pid_t tid = thread.puppet->tid();
  const auto outcome = thread.puppet->run(batch);
  if (!outcome.has_value() && ::syscall(SYS_tgkill, member.host_pid, tid, 0) < 0 && errno == ESRCH) {
    thread.puppet->abandon();
    return {};
  }
  if (!outcome.has_value()) return outcome;
  return refuse("end", "thread " + std::to_string(thread.tid) + " of " + member.name(), "it did not exit");
}

}  // namespace

Result<void> reconcile_threads(Member& member, const model::Process& wanted) {
  std::set<uint32_t> missing;
  for (const model::Thread& thread : wanted.threads()) missing.insert(thread.tid());
  for (auto thread = member.threads.begin() + 1; thread != member.threads.end();) {
    if (missing.contains(thread->tid)) {
      ++thread;
      continue;
    }
    GODWIT_TRY(end_thread(member, *thread));
    thread = member.threads.erase(thread);
  }
  for (const MemberThread& thread : member.threads) missing.erase(thread.tid);
  if (missing.empty()) return {};
  return create_threads(member, {missing.begin(), missing.end()});
}

}  // namespace godwit::runtime::rebuild
