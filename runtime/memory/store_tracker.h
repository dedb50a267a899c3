// The dirty tracker of a replica: nobody writes to its stopped processes but the page sink, which keeps a
// list.
//
// Not by the kernel (dirty_tracker.h), because giving back what userfaultfd tracks costs some 15 ms a GiB,
// which would be downtime, and giving it back later lets the running process notice: a tracked mapping does
// not merge with a neighbour that is not. What the list cannot know is looked for: pages that vanished, by
// the page tables; mappings that changed, by comparing them from round to round.
#pragma once

#include <sys/types.h>

#include <functional>
#include <memory>

#include "base/result.h"
#include "runtime/memory/dirty_tracker.h"

namespace godwit::runtime {

// `take_stored`: where pages were stored in this process since one last asked; any order, may overlap.
Result<std::unique_ptr<DirtyTracker>> make_store_tracker(pid_t pid, std::function<Ranges()> take_stored);

}  // namespace godwit::runtime
