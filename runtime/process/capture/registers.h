// What a thread that was stopped inside a system call must be given to go on somewhere else.
#pragma once

#include <sys/user.h>

#include <cstdint>
#include <map>

#include <sys/types.h>

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
  //  * EINTR of a call that cannot be restarted (epoll_wait and its kin) and was interrupted by nothing but
  //    the stop: made again too.
  // `orig_rax` is -1 afterwards, so that no kernel rewinds it again.
  user_regs_struct resumable(pid_t tid, const user_regs_struct& registers);
  // The same for a thread that goes on here: only the last of the three cases; the kernel knows the others.
  static bool forget_interruption(user_regs_struct& registers);

 private:
  struct Call {
    uint64_t number;
    uint64_t rip;
    uint64_t rsp;
  };
  std::map<pid_t, Call> calls_;
};

}  // namespace godwit::runtime
