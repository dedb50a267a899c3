// What ptrace(2) tells of a held thread.
#include <elf.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <sys/ptrace.h>
#include <sys/uio.h>

#include <array>

#include "runtime/process/capture/member.h"
#include "runtime/process/puppet_trace.h"

namespace godwit::runtime {
namespace {

constexpr size_t kExtendedStateMax = 16384;
constexpr size_t kPendingPiece = 32;

Result<std::string> read_filter(pid_t tid, uint64_t index) {
  const long count = trace(PTRACE_SECCOMP_GET_FILTER, tid, index);
  if (count <= 0)
    return fail(
        "read a seccomp filter of", "thread " + std::to_string(tid), errno,
        "the kernel needs CONFIG_CHECKPOINT_RESTORE, and this process must not be confined by seccomp");
  std::string code(static_cast<size_t>(count) * sizeof(sock_filter), '\0');
  if (trace(PTRACE_SECCOMP_GET_FILTER, tid, index, code.data()) < 0)
    return fail("read a seccomp filter of", "thread " + std::to_string(tid));
  return code;
}

Result<void> read_filters(Member& member, pid_t tid, const ProcStatus& status, model::Thread& thread) {
  auto& known = member.filters[tid];
  if (known.size() != status.seccomp_filters) {
    known.clear();
    for (uint32_t i = 0; i < status.seccomp_filters; ++i) {  // the kernel counts from the oldest
      GODWIT_ASSIGN(auto code, read_filter(tid, i));
      known.push_back(std::move(code));
    }
  }
  for (uint32_t i = 0; i < known.size(); ++i) {
    thread.add_seccomp_filters(known[i]);
    __ptrace_seccomp_metadata metadata{.filter_off = i, .flags = 0};
    if (trace(PTRACE_SECCOMP_GET_METADATA, tid, sizeof metadata, &metadata) < 0)
      return fail("read the flags of a seccomp filter of", "thread " + std::to_string(tid));
    thread.add_seccomp_filter_flags(static_cast<uint32_t>(metadata.flags));
  }
  return {};
}

Result<void> read_pending(pid_t tid, bool shared,
                          google::protobuf::RepeatedPtrField<model::PendingSignal>* to) {
  std::array<siginfo_t, kPendingPiece> piece{};
  for (uint64_t offset = 0;;) {
    const __ptrace_peeksiginfo_args what{.off = offset,
                                         .flags = shared ? uint32_t{PTRACE_PEEKSIGINFO_SHARED} : 0,
                                         .nr = static_cast<int>(piece.size())};
    const long count = ::ptrace(PTRACE_PEEKSIGINFO, tid, &what, piece.data());
    if (count < 0) return fail("read the pending signals of", "thread " + std::to_string(tid));
    for (long i = 0; i < count; ++i)
      to->Add()->set_information(&piece[static_cast<size_t>(i)], sizeof(siginfo_t));
    if (static_cast<size_t>(count) < piece.size()) return {};
    offset += static_cast<uint64_t>(count);
  }
}

}  // namespace

Result<void> read_pending_signals(const Member& member, model::Process& process) {
  GODWIT_TRY(read_pending(member.process.host_pid, true, process.mutable_pending_signals()));
  int index = 0;
  for (const Puppet* puppet : member.held())
    GODWIT_TRY(
        read_pending(puppet->tid(), false, process.mutable_threads(index++)->mutable_pending_signals()));
  return {};
}

Result<void> read_held_thread(Member& member, Puppet& puppet, const ProcStatus& status,
                              model::Thread& thread) {
  const pid_t tid = puppet.tid();
  std::array<char, kExtendedStateMax> state{};
  iovec place{.iov_base = state.data(), .iov_len = state.size()};
  if (trace(PTRACE_GETREGSET, tid, NT_X86_XSTATE, &place) != 0)
    return fail("read the extended registers of", "thread " + std::to_string(tid));
  thread.set_extended_state(state.data(), place.iov_len);
  thread.set_signal_mask(puppet.signal_mask());
  GODWIT_ASSIGN(const RseqConfiguration rseq, puppet.rseq());
  thread.set_rseq_address(rseq.address);
  thread.set_rseq_length(rseq.length);
  thread.set_rseq_signature(rseq.signature);
  GODWIT_TRY(puppet.leave_restartable_sequence());
  return read_filters(member, tid, status, thread);
}

}  // namespace godwit::runtime
