// How much processor time a thread of a session may take from others.
#pragma once

#include <sys/types.h>

#include <cstdint>

namespace godwit::engine {

enum class Pace : uint32_t {
  kInvalid = 0,
  kIdle = 1,   // SCHED_IDLE: what nobody else wants. The bulk of the pages.
  kBrisk = 2,  // nice(2) +10: the rounds after it, and everything that is not urgent.
  kUrgent =
      3,  // SCHED_FIFO where the kernel allows it (sched(7)), nice -20 elsewhere: the container is frozen.
};

// Two system calls at the most: not worth remembering what the thread has, which urge() may have changed.
void adopt_pace(Pace pace);
// kUrgent for another thread of this process, until it adopts a pace itself: one that waits for work cannot
// hurry by itself.
void urge(pid_t tid);

}  // namespace godwit::engine
