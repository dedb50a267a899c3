// What only a held thread tells: by ptrace(2), and by system calls it makes for us.
#include <elf.h>
#include <linux/filter.h>
#include <linux/prctl.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/uio.h>

#include <algorithm>
#include <array>
#include <bit>

#include "runtime/process/capture/member.h"
#include "runtime/process/puppet_trace.h"

namespace godwit::runtime {
namespace {

constexpr int kSignalsMax = 64;
constexpr size_t kExtendedStateMax = 16384;
constexpr size_t kPendingPiece = 32;

struct KernelSignalAction {  // of rt_sigaction(2) on x86-64
  uint64_t handler;
  uint64_t flags;
  uint64_t restorer;
  uint64_t mask;
};

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

uint64_t microseconds(const timeval& time) {
  return static_cast<uint64_t>(time.tv_sec) * 1'000'000 + static_cast<uint64_t>(time.tv_usec);
}

uint64_t nanoseconds(const timespec& time) {
  return static_cast<uint64_t>(time.tv_sec) * 1'000'000'000 + static_cast<uint64_t>(time.tv_nsec);
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

}  // namespace

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

Result<void> read_held_thread(Member& member, Puppet& puppet, const ProcStatus& status,
                              model::Thread& thread) {
  const pid_t tid = puppet.tid();
  GODWIT_TRY(read_pending(tid, false, thread.mutable_pending_signals()));
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

namespace {

// What is asked of one thread, and where the answers come.
struct ThreadQuestions {
  CallBatch::Place address;
  CallBatch::Place stack;
  CallBatch::Place death;
  size_t bits = 0;
};

ThreadQuestions add_thread_questions(CallBatch& batch) {
  ThreadQuestions asked{.address = batch.room(sizeof(uint64_t)),
                        .stack = batch.room(sizeof(stack_t)),
                        .death = batch.room(sizeof(int))};
  batch.call(SYS_prctl, {PR_GET_TID_ADDRESS, asked.address}, "ask the tid address");
  batch.call(SYS_sigaltstack, {0, asked.stack}, "ask the alternate signal stack");
  batch.call(SYS_prctl, {PR_GET_PDEATHSIG, asked.death}, "ask the parent death signal");
  asked.bits = batch.call(SYS_prctl, {PR_GET_SECUREBITS}, "ask the secure bits");
  return asked;
}

void take_thread_answers(const CallBatch& batch, const ThreadQuestions& asked, model::Thread& thread) {
  thread.set_tid_address(batch.read<uint64_t>(asked.address));
  const auto alternate = batch.read<stack_t>(asked.stack);
  thread.set_stack_pointer_alternate(std::bit_cast<uint64_t>(alternate.ss_sp));
  // SS_ONSTACK depends on the stack pointer of the injected code; it is no setting.
  thread.set_stack_flags_alternate(static_cast<uint32_t>(alternate.ss_flags) & ~uint32_t{SS_ONSTACK});
  thread.set_stack_size_alternate(alternate.ss_size);
  thread.set_parent_death_signal(batch.read<int>(asked.death));
  thread.mutable_credentials()->set_securebits(static_cast<uint32_t>(batch.result(asked.bits)));
}

}  // namespace

Result<void> ask_thread(Puppet& puppet, model::Thread& thread) {
  CallBatch batch;
  const ThreadQuestions asked = add_thread_questions(batch);
  GODWIT_TRY(puppet.run(batch));
  take_thread_answers(batch, asked, thread);
  return {};
}

namespace {

void add_actions(const CallBatch& batch, const std::array<CallBatch::Place, kSignalsMax>& places,
                 model::Process& process) {
  for (int i = 0; i < kSignalsMax; ++i) {
    const auto found = batch.read<KernelSignalAction>(places[static_cast<size_t>(i)]);
    if (found.handler == 0 && found.flags == 0 && found.mask == 0) continue;
    auto& action = *process.add_signal_actions();
    action.set_signal(static_cast<uint32_t>(i + 1));
    action.set_handler(found.handler);
    action.set_flags(found.flags);
    action.set_restorer(found.restorer);
    action.set_mask(found.mask);
  }
}

Result<void> add_posix_timer(const ProcTimer& from, const itimerspec& value, int64_t overrun,
                             const std::map<pid_t, uint32_t>& container_tids, model::Process& process) {
  auto& timer = *process.add_posix_timers();
  timer.set_id(from.id);
  timer.set_clock(from.clock);
  timer.set_notify(from.notify);
  timer.set_signal(from.signal);
  timer.set_value(from.value);
  timer.set_interval_ns(nanoseconds(value.it_interval));
  timer.set_value_ns(nanoseconds(value.it_value));
  timer.set_overrun(static_cast<uint32_t>(std::max<int64_t>(overrun, 0)));
  if ((from.notify & SIGEV_THREAD_ID) == 0) return {};
  const auto thread = container_tids.find(from.notify_tid);
  if (thread == container_tids.end())
    return refuse("read", "POSIX timer " + std::to_string(from.id), "it notifies a thread that has ended");
  timer.set_notify_tid(thread->second);
  return {};
}

}  // namespace

Result<void> ask_process(const Member& member, const std::vector<ProcTimer>& timers,
                         const std::map<pid_t, uint32_t>& container_tids, model::Process& process) {
  CallBatch batch;
  std::array<CallBatch::Place, kSignalsMax> actions;
  for (int i = 0; i < kSignalsMax; ++i) {
    auto& place = actions[static_cast<size_t>(i)];
    place = batch.room(sizeof(KernelSignalAction));
    batch.call(SYS_rt_sigaction, {i + 1, 0, place, sizeof(uint64_t)}, "ask a signal action");
  }
  std::array<CallBatch::Place, 3> intervals;
  for (size_t which = 0; which < intervals.size(); ++which) {
    intervals[which] = batch.room(sizeof(itimerval));
    batch.call(SYS_getitimer, {which, intervals[which]}, "ask an interval timer");
  }
  struct Asked {
    CallBatch::Place value;
    size_t overrun;
  };
  std::vector<Asked> asked;
  for (const ProcTimer& timer : timers) {
    const auto value = batch.room(sizeof(itimerspec));
    batch.call(SYS_timer_gettime, {timer.id, value}, "ask a POSIX timer");
    asked.push_back(
        {.value = value, .overrun = batch.call(SYS_timer_getoverrun, {timer.id}, "ask a POSIX timer")});
  }
  // Asked by the process of itself: prlimit(2) of a process of other ids needs CAP_SYS_RESOURCE.
  std::array<CallBatch::Place, RLIM_NLIMITS> limits;
  for (size_t resource = 0; resource < limits.size(); ++resource) {
    limits[resource] = batch.room(sizeof(rlimit64));
    batch.call(SYS_prlimit64, {0, resource, 0, limits[resource]}, "ask a resource limit");
  }
  const auto reaper = batch.room(sizeof(int));
  const size_t program_break = batch.call(SYS_brk, {0}, "ask the program break");
  const size_t dumpable = batch.call(SYS_prctl, {PR_GET_DUMPABLE}, "ask whether it is dumpable");
  const size_t huge = batch.call(SYS_prctl, {PR_GET_THP_DISABLE, 0, 0, 0, 0}, "ask for huge pages");
  batch.call(SYS_prctl, {PR_GET_CHILD_SUBREAPER, reaper}, "ask whether it is a reaper");
  const ThreadQuestions leader = add_thread_questions(batch);
  GODWIT_TRY(member.leader()->run(batch));

  take_thread_answers(batch, leader, *process.mutable_threads(0));
  add_actions(batch, actions, process);
  for (size_t which = 0; which < intervals.size(); ++which) {
    const auto found = batch.read<itimerval>(intervals[which]);
    // A periodic timer whose signal is still pending reads 0 left.
    if (microseconds(found.it_value) == 0 && microseconds(found.it_interval) == 0) continue;
    auto& timer = *process.add_interval_timers();
    timer.set_which(static_cast<uint32_t>(which));
    timer.set_interval_us(microseconds(found.it_interval));
    timer.set_value_us(microseconds(found.it_value));
  }
  for (size_t resource = 0; resource < limits.size(); ++resource) {
    const auto found = batch.read<rlimit64>(limits[resource]);
    auto& limit = *process.add_limits();
    limit.set_resource(static_cast<uint32_t>(resource));
    limit.set_soft(found.rlim_cur);
    limit.set_hard(found.rlim_max);
  }
  for (size_t i = 0; i < timers.size(); ++i)
    GODWIT_TRY(add_posix_timer(timers[i], batch.read<itimerspec>(asked[i].value),
                               batch.result(asked[i].overrun), container_tids, process));
  process.mutable_memory()->set_brk(static_cast<uint64_t>(batch.result(program_break)));
  process.set_dumpable(static_cast<uint32_t>(batch.result(dumpable)));
  process.set_thp_disable(batch.result(huge) != 0);
  process.set_child_subreaper(batch.read<int>(reaper) != 0);
  return {};
}

}  // namespace godwit::runtime
