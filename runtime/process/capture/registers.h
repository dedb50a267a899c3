// What a thread that was stopped inside a system call must be given to go on somewhere else.
#pragma once

#include <sys/user.h>

#include <cstdint>
#include <map>

#include <sys/types.h>

#include "base/result.h"
#include "runtime/process/puppet.h"

namespace godwit::runtime {

// Remembers which call a thread is in when the kernel only says restart_syscall(2): a thread that was stopped
// before, and has gone back to its sleep, shows that number instead of its own.
class RestartMemory {
 public:
  // Registers with which the thread, started anywhere, makes its interrupted call again:
  //  * ERESTARTSYS, ERESTARTNOINTR, ERESTARTNOHAND: rip on the `syscall` instruction, rax the number.
  //  * ERESTART_RESTARTBLOCK (poll, nanosleep, futex with a timeout): the same, with the whole of its
  //  timeout;
  //    how much was left lives in the kernel only. Where the number is not known it reports EINTR.
  //  * EINTR of a call that the kernel does not restart, if nothing but the stop has interrupted it: made
  //    again too. Such are those that signal(7) says return EINTR after a stop even without a handler:
  //    epoll_wait and its kin, sigtimedwait, semop, and whatever reads, writes, accepts or connects on a
  //    socket with a timeout (SO_RCVTIMEO, SO_SNDTIMEO); and fallocate. EINTR says that they have done
  //    nothing: what had got some bytes returned their number. The kernel does not say how much of a timeout
  //    was left, so it begins anew.
  // `orig_rax` is -1 afterwards, so that no kernel rewinds it again.
  user_regs_struct resumable(pid_t tid, const user_regs_struct& registers);
  // The same for a thread that goes on here: only the last of the three cases; the kernel knows the others.
  static bool forget_interruption(pid_t tid, user_regs_struct& registers);

 private:
  struct Call {
    uint64_t number;
    uint64_t rip;
    uint64_t rsp;
  };
  std::map<pid_t, Call> calls_;
};

// Lets a stopped puppet go as if it had not been stopped.
Result<void> release_unnoticed(Puppet& puppet);

}  // namespace godwit::runtime
