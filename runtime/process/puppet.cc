// Seizing, stopping and letting go. The wait for a stop is in puppet_wait.cc, the execution of batches in
// puppet_run.cc.
#include "runtime/process/puppet.h"

#include <linux/rseq.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include "runtime/kernel/uapi.h"
#include "runtime/process/puppet_trace.h"
#include "runtime/process/scratch.h"

namespace godwit::runtime {
namespace {

constexpr int64_t kLastPatienceMs = 100;

bool is_event_stop(int status) {
  return status >> 16 == PTRACE_EVENT_STOP;
}

bool read_memory(pid_t tid, uint64_t address, void* to, size_t size) {
  const iovec local{.iov_base = to, .iov_len = size};
  const iovec remote{.iov_base = std::bit_cast<void*>(address), .iov_len = size};
  return ::process_vm_readv(tid, &local, 1, &remote, 1, 0) == static_cast<ssize_t>(size);
}

}  // namespace

Result<std::unique_ptr<Puppet>> Puppet::seize(pid_t tid, uint64_t extra_options) {
  const uint64_t options = PTRACE_O_TRACESYSGOOD | PTRACE_O_SUSPEND_SECCOMP | extra_options;
  const std::string name = "thread " + std::to_string(tid);
  if (trace(PTRACE_SEIZE, tid, 0, options) != 0) {
    const int code = errno;
    return fail("seize", name, code,
                code == EPERM
                    ? "it is traced already, or this process lacks CAP_SYS_PTRACE and CAP_SYS_ADMIN, "
                      "or is confined by seccomp itself"
                    : "");
  }
  std::unique_ptr<Puppet> puppet(new Puppet(tid, options));
  if (trace(PTRACE_INTERRUPT, tid) != 0) return fail("interrupt", name);
  return puppet;
}

std::unique_ptr<Puppet> Puppet::adopt(pid_t tid, uint64_t options) {
  return std::unique_ptr<Puppet>(new Puppet(tid, options | PTRACE_O_TRACESYSGOOD | PTRACE_O_SUSPEND_SECCOMP));
}

Puppet::~Puppet() {
  if (!seized_) return;
  // A thread must be stopped to be detached; one that was only seized is on its way to a stop. If it does not
  // get there the end of this thread lets it go.
  if (!stopped_ && (lost_ || !wait_stopped(Deadline::in_ms(kLastPatienceMs)).has_value())) return;
  static_cast<void>(release());
}

Result<void> Puppet::wait_stopped(Deadline deadline) {
  if (lost_) return fail("stop", name(), ETIMEDOUT, "it is still busy with what it was asked");
  for (;;) {
    GODWIT_ASSIGN(const int status, wait_status(deadline));
    if (is_event_stop(status)) break;
    // A signal was on its way before the interruption, or an event of a system call: let it pass. The
    // interruption is still pending and comes before the next instruction.
    const int signal = status >> 16 == 0 && WSTOPSIG(status) != (SIGTRAP | 0x80) ? WSTOPSIG(status) : 0;
    if (trace(PTRACE_CONT, tid_, 0, signal) != 0) return fail("deliver a signal to", name());
  }
  stopped_ = true;
  sequence_left_ = false;
  frame_.clear();
  if (trace(PTRACE_GETREGS, tid_, 0, &registers_) != 0) return fail("read the registers of", name());
  if (trace(PTRACE_GETSIGMASK, tid_, sizeof signal_mask_, &signal_mask_) != 0)
    return fail("read the signal mask of", name());
  return {};
}

void Puppet::set_registers(const user_regs_struct& registers) {
  registers_ = registers;
  sequence_left_ = true;
  frame_.clear();
  // A failure means that the thread is gone; whatever is asked of it next says so.
  static_cast<void>(trace(PTRACE_SETREGS, tid_, 0, &registers_));
}

Result<void> Puppet::set_signal_mask(uint64_t mask) {
  if (trace(PTRACE_SETSIGMASK, tid_, sizeof mask, &mask) != 0) return fail("set the signal mask of", name());
  signal_mask_ = mask;
  frame_.clear();
  return {};
}

Result<RseqConfiguration> Puppet::rseq() const {
  __ptrace_rseq_configuration found{};
  if (trace(PTRACE_GET_RSEQ_CONFIGURATION, tid_, sizeof found, &found) < 0)
    return fail("read the rseq configuration of", name(), errno, "the kernel needs CONFIG_RSEQ");
  return RseqConfiguration{.address = found.rseq_abi_pointer,
                           .length = found.rseq_abi_pointer == 0 ? 0 : found.rseq_abi_size,
                           .signature = found.signature};
}

Result<void> Puppet::leave_restartable_sequence() {
  if (sequence_left_) return {};
  GODWIT_ASSIGN(const RseqConfiguration configuration, rseq());
  sequence_left_ = true;
  if (configuration.length == 0) return {};
  uint64_t descriptor = 0;
  if (!read_memory(tid_, configuration.address + offsetof(struct rseq, rseq_cs), &descriptor,
                   sizeof descriptor) ||
      descriptor == 0)
    return {};
  // What does not hold together is left to the kernel, which punishes it when the thread runs.
  rseq_cs section{};
  uint32_t signature = 0;
  if (!read_memory(tid_, descriptor, &section, sizeof section)) return {};
  if (registers_.rip - section.start_ip >= section.post_commit_offset) return {};
  if (!read_memory(tid_, section.abort_ip - sizeof signature, &signature, sizeof signature)) return {};
  if (signature != configuration.signature) return {};
  registers_.rip = section.abort_ip;
  if (trace(PTRACE_SETREGS, tid_, 0, &registers_) != 0) return fail("set the registers of", name());
  return {};
}

// To drop a scratch ends in such a stop too: meanwhile the others are on their way to theirs.
Result<void> Puppet::settle_together(std::span<Puppet* const> leaders, std::span<Puppet* const> others) {
  for (Puppet* one : others) {
    uint64_t signal = 0;
    if (!one->held_signals_.empty() &&
        trace(PTRACE_SETSIGINFO, one->tid_, 0, &one->held_signals_.front()) == 0)
      signal = kDoneSignal;
    one->held_signals_.clear();
    if (trace(PTRACE_INTERRUPT, one->tid_) != 0 || trace(PTRACE_CONT, one->tid_, 0, signal) != 0)
      return fail("interrupt", one->name());
    one->stopped_ = false;
  }
  for (Puppet* one : leaders) GODWIT_TRY(one->drop_scratch());
  for (Puppet* one : others) GODWIT_TRY(one->wait_stopped());
  return {};
}

Result<void> Puppet::kill_with_tracer(bool on) {
  const uint64_t options = on ? options_ | PTRACE_O_EXITKILL : options_ & ~uint64_t{PTRACE_O_EXITKILL};
  if (trace(PTRACE_SETOPTIONS, tid_, 0, options) != 0) return fail("set the ptrace options of", name());
  options_ = options;
  return {};
}

Result<void> Puppet::release() {
  if (!seized_) return {};
  if (!stopped_) return fail("let go", name(), EAGAIN, "it has not stopped yet");
  uint64_t signal = 0;
  if (!held_signals_.empty()) {
    // The last stop was the delivery of our own signal: the one that was kept takes its place. If the thread
    // blocks it, the kernel queues it again.
    if (trace(PTRACE_SETSIGINFO, tid_, 0, &held_signals_.front()) == 0) signal = kDoneSignal;
  }
  if (trace(PTRACE_DETACH, tid_, 0, signal) != 0) {
    const int code = errno;
    if (code == ESRCH) seized_ = false;
    return fail("let go", name(), code);
  }
  seized_ = stopped_ = false;
  if (held_stop_) ::syscall(SYS_tkill, tid_, SIGSTOP);
  held_stop_ = false;
  held_signals_.clear();
  return {};
}

}  // namespace godwit::runtime
