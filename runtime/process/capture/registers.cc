#include "runtime/process/capture/registers.h"

#include <sys/syscall.h>

#include <cerrno>

#include "runtime/process/restart.h"

namespace godwit::runtime {
namespace {

constexpr uint64_t kInstructionSize = 2;  // of `syscall`

void make_again(user_regs_struct& registers, uint64_t number) {
  registers.rax = number;
  registers.rip -= kInstructionSize;
  registers.orig_rax = kNoSystemCall;
}

bool only_waits(uint64_t number) {
  switch (number) {
    case SYS_epoll_wait:
    case SYS_epoll_pwait:
    case SYS_epoll_pwait2:
    case SYS_rt_sigtimedwait:
    case SYS_semtimedop:
    case SYS_semop:
    case SYS_io_getevents:
    case SYS_io_pgetevents:
      return true;
    default:
      return false;
  }
}

}  // namespace

bool RestartMemory::forget_interruption(user_regs_struct& registers) {
  if (static_cast<int64_t>(registers.rax) != -EINTR || !only_waits(registers.orig_rax)) return false;
  make_again(registers, registers.orig_rax);
  return true;
}

user_regs_struct RestartMemory::resumable(pid_t tid, const user_regs_struct& registers) {
  user_regs_struct result = registers;
  if (static_cast<int64_t>(registers.orig_rax) < 0) return result;
  switch (static_cast<int64_t>(registers.rax)) {
    case kRestartSystemCall:
    case kRestartNoInterrupt:
    case kRestartNoHandler:
      make_again(result, registers.orig_rax);
      break;
    case kRestartBlock:
      if (registers.orig_rax != SYS_restart_syscall) {
        calls_[tid] = {.number = registers.orig_rax, .rip = registers.rip, .rsp = registers.rsp};
        make_again(result, registers.orig_rax);
      } else if (const auto known = calls_.find(tid); known != calls_.end() &&
                                                      known->second.rip == registers.rip &&
                                                      known->second.rsp == registers.rsp) {
        make_again(result, known->second.number);
      } else {
        result.rax = static_cast<uint64_t>(-EINTR);
      }
      break;
    default:
      forget_interruption(result);
      break;
  }
  result.orig_rax = kNoSystemCall;
  return result;
}

}  // namespace godwit::runtime
