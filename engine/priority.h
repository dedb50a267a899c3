// How much processor time a session's threads may take from others: little in the rounds, so that the
// container keeps its pace; all that is there in the cutover, which everybody waits for. Applies to the
// calling thread.
#pragma once

namespace godwit::engine {

// nice(2) +10.
void become_background();
// SCHED_FIFO where the kernel allows it (sched(7)), nice -20 elsewhere. Ends with become_background().
void become_urgent();

}  // namespace godwit::engine
