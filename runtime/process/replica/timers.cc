// Interval timers and POSIX timers.
//
// A POSIX timer's id is the kernel's choice, unless prctl(PR_TIMER_CREATE_RESTORE_IDS) (6.16) is there; else
// ids count up from 0, and those in between are made and deleted.
#include <signal.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>

#include <algorithm>

#include "runtime/kernel/uapi.h"
#include "runtime/process/replica/member.h"

namespace godwit::runtime::rebuild {
namespace {

constexpr uint32_t kSkippedIdsMax = 4096;

timespec to_timespec(uint64_t nanoseconds) {
  return {.tv_sec = static_cast<time_t>(nanoseconds / 1'000'000'000),
          .tv_nsec = static_cast<long>(nanoseconds % 1'000'000'000)};
}

timeval to_timeval(uint64_t microseconds) {
  return {.tv_sec = static_cast<time_t>(microseconds / 1'000'000),
          .tv_usec = static_cast<suseconds_t>(microseconds % 1'000'000)};
}

struct KernelSigevent {  // struct sigevent of the kernel
  uint64_t value = 0;
  int32_t signal = 0;
  int32_t notify = 0;
  int32_t tid = 0;
  int32_t padding[11] = {};
};
static_assert(sizeof(KernelSigevent) == 64);

void create_timer(CallBatch& batch, const model::PosixTimer& timer) {
  KernelSigevent event;
  event.value = timer.value();
  event.signal = static_cast<int32_t>(timer.signal());
  event.notify = static_cast<int32_t>(timer.notify());
  event.tid = static_cast<int32_t>(timer.notify_tid());
  const auto id = batch.object(timer.id());
  batch.call(SYS_timer_create, {static_cast<int64_t>(timer.clock()), batch.object(event), id},
             "create timer " + std::to_string(timer.id()));
}

void start_timer(CallBatch& batch, const model::PosixTimer& timer) {
  if (timer.value_ns() == 0) return;
  const itimerspec value{.it_interval = to_timespec(timer.interval_ns()),
                         .it_value = to_timespec(timer.value_ns())};
  batch.call(SYS_timer_settime, {timer.id(), 0, batch.object(value), 0},
             "start timer " + std::to_string(timer.id()));
}

}  // namespace

Result<void> set_timers(CallBatch& batch, const model::Process& wanted, const HostFacts& facts) {
  for (const model::IntervalTimer& timer : wanted.interval_timers()) {
    // A periodic ITIMER_REAL that has expired stands still until its SIGALRM, which is pending, is taken; it
    // shows nothing left then. Setting nothing would stop it for good, so its next period begins.
    const bool expired = timer.which() == ITIMER_REAL && timer.value_us() == 0;
    const itimerval value{.it_interval = to_timeval(timer.interval_us()),
                          .it_value = to_timeval(expired ? timer.interval_us() : timer.value_us())};
    batch.call(SYS_setitimer, {timer.which(), batch.object(value), 0}, "setitimer");
  }
  if (wanted.posix_timers_size() == 0) return {};

  std::vector<const model::PosixTimer*> timers;
  for (const model::PosixTimer& timer : wanted.posix_timers()) timers.push_back(&timer);
  std::sort(timers.begin(), timers.end(), [](auto* a, auto* b) { return a->id() < b->id(); });
  if (facts.timer_ids_can_be_chosen) {
    batch.call(SYS_prctl, {PR_TIMER_CREATE_RESTORE_IDS, PR_TIMER_CREATE_RESTORE_IDS_ON, 0, 0, 0},
               "choose the ids of timers");
  }
  uint32_t next = 0;
  for (const model::PosixTimer* timer : timers) {
    if (!facts.timer_ids_can_be_chosen) {
      if (timer->id() > kSkippedIdsMax) {
        return refuse("create timer",
                      "pid " + std::to_string(wanted.pid()) + " timer " + std::to_string(timer->id()),
                      "this kernel cannot give a timer a chosen id that high");
      }
      for (; next < timer->id(); next++) {
        const auto id = batch.room(sizeof(int32_t));
        batch.call(SYS_timer_create, {CLOCK_MONOTONIC, 0, id}, "skip timer id " + std::to_string(next));
        batch.call(SYS_timer_delete, {next}, "skip timer id " + std::to_string(next));
      }
      next++;
    }
    create_timer(batch, *timer);
    start_timer(batch, *timer);
  }
  if (facts.timer_ids_can_be_chosen) {
    batch.call(SYS_prctl, {PR_TIMER_CREATE_RESTORE_IDS, PR_TIMER_CREATE_RESTORE_IDS_OFF, 0, 0, 0},
               "let the kernel choose the ids of timers");
  }
  return {};
}

}  // namespace godwit::runtime::rebuild
