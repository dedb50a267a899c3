#include "runtime/process/capture/registers.h"

#include <sys/syscall.h>

#include <cerrno>
#include <string>
#include <string_view>

#include "base/fd.h"
#include "runtime/process/restart.h"

namespace godwit::runtime {
namespace {

constexpr uint64_t kInstructionSize = 2;  // of `syscall`

void make_again(user_regs_struct& registers, uint64_t number) {
  registers.rax = number;
  registers.rip -= kInstructionSize;
  registers.orig_rax = kNoSystemCall;
}

// Calls whose EINTR means that they have done nothing, so that they may be made again.
bool does_nothing_when_interrupted(uint64_t number) {
  switch (number) {
    case SYS_epoll_wait:
    case SYS_epoll_pwait:
    case SYS_epoll_pwait2:
    case SYS_rt_sigtimedwait:
    case SYS_semtimedop:
    case SYS_semop:
    case SYS_io_getevents:
    case SYS_io_pgetevents:
    // On sockets with a timeout.
    case SYS_accept:
    case SYS_accept4:
    case SYS_connect:  // goes on waiting for the connection that it has begun
    case SYS_read:
    case SYS_readv:
    case SYS_preadv2:
    case SYS_recvfrom:
    case SYS_recvmsg:
    case SYS_recvmmsg:
    case SYS_write:
    case SYS_writev:
    case SYS_pwritev2:
    case SYS_sendto:
    case SYS_sendmsg:
    case SYS_sendmmsg:
    case SYS_sendfile:
    case SYS_splice:
    case SYS_fallocate:  // of a tmpfs; it takes back what it had allocated
      return true;
    default:
      return false;
  }
}

// A mask of /proc/TID/status.
uint64_t signal_set(const std::string& status, std::string_view key) {
  const size_t found = status.find(key);
  return found == std::string::npos ? 0 : std::strtoull(status.c_str() + found + key.size(), nullptr, 16);
}

// Whether a signal waits that it has a handler for: then it was interrupted by that one, too, or might as
// well have been, and the program wants to know.
bool has_signal_for_it(pid_t tid) {
  const auto status = read_file("/proc/" + std::to_string(tid) + "/status");
  if (!status.has_value()) return true;
  const uint64_t pending = signal_set(*status, "\nSigPnd:") | signal_set(*status, "\nShdPnd:");
  return (pending & ~signal_set(*status, "\nSigBlk:") & signal_set(*status, "\nSigCgt:")) != 0;
}

}  // namespace

bool RestartMemory::forget_interruption(pid_t tid, user_regs_struct& registers) {
  if (static_cast<int64_t>(registers.orig_rax) < 0 || static_cast<int64_t>(registers.rax) != -EINTR)
    return false;
  if (!does_nothing_when_interrupted(registers.orig_rax) || has_signal_for_it(tid)) return false;
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
      forget_interruption(tid, result);
      break;
  }
  result.orig_rax = kNoSystemCall;
  return result;
}

Result<void> release_unnoticed(Puppet& puppet) {
  if (puppet.stopped()) {
    user_regs_struct registers = puppet.registers();
    if (RestartMemory::forget_interruption(puppet.tid(), registers)) puppet.set_registers(registers);
  }
  return puppet.release();
}

}  // namespace godwit::runtime
