#include "engine/session/priority.h"

#include <sched.h>
#include <sys/resource.h>
#include <unistd.h>

namespace godwit::engine {
namespace {

constexpr int kBriskNice = 10;
constexpr int kUrgentNice = -20;

void set_nice(pid_t tid, int nice) {
  (void)::setpriority(PRIO_PROCESS, static_cast<id_t>(tid), nice);
}

}  // namespace

// Priorities are a courtesy: where the kernel refuses them, a migration works all the same, only slower.
void urge(pid_t tid) {
  const sched_param lowest{.sched_priority = 1};
  if (::sched_setscheduler(tid, SCHED_FIFO | SCHED_RESET_ON_FORK, &lowest) != 0) set_nice(tid, kUrgentNice);
}

void adopt_pace(Pace pace) {
  const sched_param none{};
  switch (pace) {
    case Pace::kIdle:
      (void)::sched_setscheduler(0, SCHED_IDLE, &none);
      return;
    case Pace::kUrgent:
      urge(::gettid());
      return;
    case Pace::kBrisk:
    case Pace::kInvalid:
      (void)::sched_setscheduler(0, SCHED_OTHER, &none);
      set_nice(::gettid(), kBriskNice);
      return;
  }
}

}  // namespace godwit::engine
