#include "engine/priority.h"

#include <sched.h>
#include <sys/resource.h>
#include <unistd.h>

namespace godwit::engine {
namespace {
constexpr int kBackgroundNice = 10;
constexpr int kUrgentNice = -20;
}  // namespace

// Priorities are a courtesy: where the kernel refuses them, a migration works all the same, only slower.
void become_background() {
  const sched_param none{};
  (void)::sched_setscheduler(0, SCHED_OTHER, &none);
  (void)::setpriority(PRIO_PROCESS, static_cast<id_t>(::gettid()), kBackgroundNice);
}

void become_urgent() {
  const sched_param lowest{.sched_priority = 1};
  if (::sched_setscheduler(0, SCHED_FIFO | SCHED_RESET_ON_FORK, &lowest) == 0) return;
  (void)::setpriority(PRIO_PROCESS, static_cast<id_t>(::gettid()), kUrgentNice);
}

}  // namespace godwit::engine
