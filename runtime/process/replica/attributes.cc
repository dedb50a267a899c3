// What a process or a thread is told about itself by one call each: working directory, umask, name, signal
// stack, robust list, rseq, ...
#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>

#include "runtime/process/replica/member.h"

namespace godwit::runtime::rebuild {

void set_process_attributes(CallBatch& batch, const model::Process& wanted) {
  batch.call(SYS_umask, {wanted.umask()}, "umask");
  batch.call(SYS_personality, {wanted.personality()}, "personality");
  batch.call(SYS_prctl, {PR_SET_CHILD_SUBREAPER, wanted.child_subreaper() ? 1 : 0, 0, 0, 0},
             "become a subreaper");
  // Both paths start at the container's root, so the directory comes before the root.
  batch.call(SYS_chdir, {batch.text(wanted.working_directory())}, "chdir " + wanted.working_directory());
  if (wanted.root_directory() != "/") {
    batch.call(SYS_chroot, {batch.text(wanted.root_directory())}, "chroot " + wanted.root_directory());
  }
  set_memory_layout(batch, wanted.memory(), -1);
}

// By the process itself, while it still may: from outside prlimit(2) wants the same user ids or
// CAP_SYS_RESOURCE, and lowering one's own limits wants nothing.
void set_limits(CallBatch& batch, const model::Process& wanted) {
  for (const model::ResourceLimit& limit : wanted.limits()) {
    const rlimit64 value{.rlim_cur = limit.soft(), .rlim_max = limit.hard()};
    batch.call(SYS_prlimit64, {0, limit.resource(), batch.object(value), 0},
               "set resource limit " + std::to_string(limit.resource()));
  }
}

void set_thread_attributes(CallBatch& batch, const model::Thread& wanted) {
  batch.call(SYS_prctl, {PR_SET_NAME, batch.text(wanted.name()), 0, 0, 0}, "set the name");
  if (wanted.timer_slack_ns() != 0) {
    batch.call(SYS_prctl, {PR_SET_TIMERSLACK, wanted.timer_slack_ns(), 0, 0, 0}, "set the timer slack");
  }
  stack_t stack{};
  stack.ss_sp = reinterpret_cast<void*>(wanted.stack_pointer_alternate());  // NOLINT: an address elsewhere
  // SS_ONSTACK is what the stack pointer says, not what is set.
  stack.ss_flags = static_cast<int>(wanted.stack_flags_alternate() & ~uint32_t{SS_ONSTACK});
  stack.ss_size = wanted.stack_size_alternate();
  if (stack.ss_size == 0) stack.ss_flags = SS_DISABLE;
  batch.call(SYS_sigaltstack, {batch.object(stack), 0}, "sigaltstack");
  batch.call(SYS_set_tid_address, {wanted.tid_address()}, "set_tid_address");
  if (wanted.robust_list_length() != 0) {
    batch.call(SYS_set_robust_list, {wanted.robust_list(), wanted.robust_list_length()}, "set_robust_list");
  }
  if (wanted.rseq_length() != 0) {
    batch.call(SYS_rseq, {wanted.rseq_address(), wanted.rseq_length(), 0, wanted.rseq_signature()},
               "register rseq");
  }
}

}  // namespace godwit::runtime::rebuild
