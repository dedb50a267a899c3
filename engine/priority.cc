#include "engine/priority.h"

#include <sched.h>
#include <sys/resource.h>
#include <unistd.h>

namespace godwit::engine {
namespace {

constexpr int kBriskNice = 10;
constexpr int kUrgentNice = -20;

void set_nice(int nice) {
  (void)::setpriority(PRIO_PROCESS, static_cast<id_t>(::gettid()), nice);
}

}  // namespace

// Priorities are a courtesy: where the kernel refuses them, a migration works all the same, only slower.
void adopt_pace(Pace pace) {
  thread_local Pace now = Pace::kInvalid;
  if (pace == now) return;
  now = pace;
  const sched_param none{};
  const sched_param lowest{.sched_priority = 1};
  switch (pace) {
    case Pace::kIdle:
      (void)::sched_setscheduler(0, SCHED_IDLE, &none);
      return;
    case Pace::kUrgent:
      if (::sched_setscheduler(0, SCHED_FIFO | SCHED_RESET_ON_FORK, &lowest) != 0) set_nice(kUrgentNice);
      return;
    case Pace::kBrisk:
    case Pace::kInvalid:
      (void)::sched_setscheduler(0, SCHED_OTHER, &none);
      set_nice(kBriskNice);
      return;
  }
}

}  // namespace godwit::engine
