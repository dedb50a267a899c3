// What only the threads themselves can ask: the batches of system calls that they make for us, and what is
// made of the answers.
#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/time.h>

#include <algorithm>
#include <bit>
#include <map>

#include "base/fd.h"
#include "runtime/process/capture/member.h"

namespace godwit::runtime {
namespace {

constexpr int kSignals = 64;
constexpr int kIntervalTimers = 3;

struct KernelSignalAction {  // of rt_sigaction(2) on x86-64
  uint64_t handler;
  uint64_t flags;
  uint64_t restorer;
  uint64_t mask;
};

uint64_t microseconds(const timeval& time) {
  return static_cast<uint64_t>(time.tv_sec) * 1'000'000 + static_cast<uint64_t>(time.tv_usec);
}

uint64_t nanoseconds(const timespec& time) {
  return static_cast<uint64_t>(time.tv_sec) * 1'000'000'000 + static_cast<uint64_t>(time.tv_nsec);
}

// Host tids to those of the container.
std::map<pid_t, uint32_t> container_tids(const Member& member, const model::Process& process) {
  std::map<pid_t, uint32_t> tids;
  int index = 0;
  for (const Puppet* puppet : member.held()) tids[puppet->tid()] = process.threads(index++).tid();
  return tids;
}

Questions::OfThread ask_thread(CallBatch& batch) {
  Questions::OfThread asked{.tid_address = batch.room(sizeof(uint64_t)),
                            .alternate_stack = batch.room(sizeof(stack_t)),
                            .death_signal = batch.room(sizeof(int))};
  batch.call(SYS_prctl, {PR_GET_TID_ADDRESS, asked.tid_address}, "ask the tid address");
  batch.call(SYS_sigaltstack, {0, asked.alternate_stack}, "ask the alternate signal stack");
  batch.call(SYS_prctl, {PR_GET_PDEATHSIG, asked.death_signal}, "ask the parent death signal");
  asked.secure_bits = batch.call(SYS_prctl, {PR_GET_SECUREBITS}, "ask the secure bits");
  return asked;
}

void ask_process(CallBatch& batch, const std::vector<ProcTimer>& timers, Questions& asked) {
  for (int signal = 1; signal <= kSignals; ++signal) {
    asked.actions.push_back(batch.room(sizeof(KernelSignalAction)));
    batch.call(SYS_rt_sigaction, {signal, 0, asked.actions.back(), sizeof(uint64_t)}, "ask a signal action");
  }
  for (int which = 0; which < kIntervalTimers; ++which) {
    asked.intervals.push_back(batch.room(sizeof(itimerval)));
    batch.call(SYS_getitimer, {which, asked.intervals.back()}, "ask an interval timer");
  }
  for (const ProcTimer& timer : timers) {
    const auto value = batch.room(sizeof(itimerspec));
    batch.call(SYS_timer_gettime, {timer.id, value}, "ask a POSIX timer");
    const size_t overrun = batch.call(SYS_timer_getoverrun, {timer.id}, "ask a POSIX timer");
    asked.timers.push_back({.timer = timer, .value = value, .overrun = overrun});
  }
  // Asked by the process of itself: prlimit(2) of a process of other ids needs CAP_SYS_RESOURCE.
  for (int resource = 0; resource < RLIM_NLIMITS; ++resource) {
    asked.limits.push_back(batch.room(sizeof(rlimit64)));
    batch.call(SYS_prlimit64, {0, resource, 0, asked.limits.back()}, "ask a resource limit");
  }
  asked.reaper = batch.room(sizeof(int));
  asked.program_break = batch.call(SYS_brk, {0}, "ask the program break");
  asked.dumpable = batch.call(SYS_prctl, {PR_GET_DUMPABLE}, "ask whether it is dumpable");
  asked.huge_pages_off = batch.call(SYS_prctl, {PR_GET_THP_DISABLE, 0, 0, 0, 0}, "ask for huge pages");
  batch.call(SYS_prctl, {PR_GET_CHILD_SUBREAPER, asked.reaper}, "ask whether it is a reaper");
}

void take_thread(const CallBatch& batch, const Questions::OfThread& asked, model::Thread& thread) {
  thread.set_tid_address(batch.read<uint64_t>(asked.tid_address));
  const auto alternate = batch.read<stack_t>(asked.alternate_stack);
  thread.set_stack_pointer_alternate(std::bit_cast<uint64_t>(alternate.ss_sp));
  // SS_ONSTACK depends on the stack pointer of the injected code; it is no setting.
  thread.set_stack_flags_alternate(static_cast<uint32_t>(alternate.ss_flags) & ~uint32_t{SS_ONSTACK});
  thread.set_stack_size_alternate(alternate.ss_size);
  thread.set_parent_death_signal(batch.read<int>(asked.death_signal));
  thread.mutable_credentials()->set_securebits(static_cast<uint32_t>(batch.result(asked.secure_bits)));
}

void take_actions(const CallBatch& batch, const Questions& asked, model::Process& process) {
  uint32_t signal = 0;
  for (const auto& place : asked.actions) {
    ++signal;
    const auto found = batch.read<KernelSignalAction>(place);
    if (found.handler == 0 && found.flags == 0 && found.mask == 0) continue;
    auto& action = *process.add_signal_actions();
    action.set_signal(signal);
    action.set_handler(found.handler);
    action.set_flags(found.flags);
    action.set_restorer(found.restorer);
    action.set_mask(found.mask);
  }
}

void take_intervals(const CallBatch& batch, const Questions& asked, model::Process& process) {
  uint32_t which = 0;
  for (const auto& place : asked.intervals) {
    const auto found = batch.read<itimerval>(place);
    const uint32_t kind = which++;
    // A periodic timer whose signal is still pending reads 0 left.
    if (microseconds(found.it_value) == 0 && microseconds(found.it_interval) == 0) continue;
    auto& timer = *process.add_interval_timers();
    timer.set_which(kind);
    timer.set_interval_us(microseconds(found.it_interval));
    timer.set_value_us(microseconds(found.it_value));
  }
}

void take_limits(const CallBatch& batch, const Questions& asked, model::Process& process) {
  uint32_t resource = 0;
  for (const auto& place : asked.limits) {
    const auto found = batch.read<rlimit64>(place);
    auto& limit = *process.add_limits();
    limit.set_resource(resource++);
    limit.set_soft(found.rlim_cur);
    limit.set_hard(found.rlim_max);
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

Result<void> take_process(const CallBatch& batch, const Questions& asked,
                          const std::map<pid_t, uint32_t>& tids, model::Process& process) {
  take_actions(batch, asked, process);
  take_intervals(batch, asked, process);
  take_limits(batch, asked, process);
  for (const auto& [timer, value, overrun] : asked.timers)
    GODWIT_TRY(add_posix_timer(timer, batch.read<itimerspec>(value), batch.result(overrun), tids, process));
  process.mutable_memory()->set_brk(static_cast<uint64_t>(batch.result(asked.program_break)));
  process.set_dumpable(static_cast<uint32_t>(batch.result(asked.dumpable)));
  process.set_thp_disable(batch.result(asked.huge_pages_off) != 0);
  process.set_child_subreaper(batch.read<int>(asked.reaper) != 0);
  return {};
}

}  // namespace

Result<Questions> add_questions(const Member& member, std::vector<Injection>& injections) {
  GODWIT_ASSIGN(const std::string text, read_file(proc_path(member.process.host_pid, "timers")));
  GODWIT_ASSIGN(const auto timers, parse_timers(text));
  Questions asked;
  asked.first = injections.size();
  for (Puppet* puppet : member.held()) {
    Injection injection{.puppet = puppet, .batch = {}};
    if (puppet == member.leader()) ask_process(injection.batch, timers, asked);
    asked.threads.push_back(ask_thread(injection.batch));
    injections.push_back(std::move(injection));
  }
  return asked;
}

Result<void> take_answers(const Member& member, const Questions& questions,
                          const std::vector<Injection>& injections, model::Process& process) {
  for (size_t i = 0; i < questions.threads.size(); ++i)
    take_thread(injections[questions.first + i].batch, questions.threads[i],
                *process.mutable_threads(static_cast<int>(i)));
  return take_process(injections[questions.first].batch, questions, container_tids(member, process), process);
}

}  // namespace godwit::runtime
