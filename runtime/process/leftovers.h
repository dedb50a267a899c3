// What a tracer that died has left in the processes of a container, and how to take it out again.
//
// Most goes with the tracer. The kernel detaches its puppets and takes back its requests to stop: none stays
// stopped. One in the middle of a batch finishes it and comes back to itself (puppet.h). A userfaultfd goes
// with its last descriptor, and with it the registration of mappings and their write protection. What stays
// is the scratch: it carries a mark, by which it is found (scratch.h).
//
// A tracer that dies in the some 50 us in which a scratch is made leaves it without its mark, and one that
// dies while it takes a descriptor out leaves that descriptor: neither can be told from the program's own.
#pragma once

#include <sys/types.h>

#include <span>
#include <vector>

#include "base/result.h"
#include "runtime/process/puppet.h"

namespace godwit::runtime {

// The scratches in the address space of the process, of whatever tracer. A process that has ended has none.
[[nodiscard]] Result<std::vector<Scratch>> find_scratches(pid_t pid);

// Takes the scratches out of these processes (of this process's pid namespace), each of which is stopped for
// that: some 50 us and 30 more for each thread. They may run or be frozen by a v2 freezer; nobody else may
// trace them. Processes that have ended are passed over, and one failure does not keep it from the others:
// the first is returned. EAGAIN: a thread does not stop now (vfork(2)), or is still on its way through the
// scratch; try again when the container has run for a moment.
//
// Threads: any; the work is done on a thread of its own, so that nothing is traced afterwards, whatever
// happens.
Result<void> remove_leftovers(std::span<const pid_t> pids);

}  // namespace godwit::runtime
