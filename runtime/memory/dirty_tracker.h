// DirtyTracker: which pages of one process were written since one last asked.
//
// The one interface of userfaultfd write-protect (async), and, later, synchronous userfaultfd and soft-dirty
// bits. Guarantee: no write is missed. A page written after collect() began is reported by this collect() or
// the next one, by whatever means it was written. Pages may be reported that were not written (false
// positives).
//
// Threads: one at a time. The process may run, map, unmap and fork meanwhile.
#pragma once

#include <memory>
#include <vector>

#include "base/result.h"
#include "runtime/memory/address_space.h"

namespace godwit::runtime {

class Puppet;

class DirtyTracker {
 public:
  virtual ~DirtyTracker() = default;
  [[nodiscard]] virtual const char* name() const = 0;

  // Follows the mappings `vmas` (those that can hold private or shared-memory pages; the caller has filtered
  // vdso and the like): registers and write-protects what is new, forgets what is gone. From here on writes
  // are recorded. Ranges that were newly registered are returned: all of their populated pages count as
  // dirty.
  virtual Result<std::vector<Range>> follow(const std::vector<Vma>& vmas) = 0;

  // The ranges written since the last collect (or follow), merged and ascending; write-protects them again in
  // the same step. Ranges whose mapping was replaced since follow() are reported in `replaced`, not in the
  // result.
  virtual Result<std::vector<Range>> collect(std::vector<Range>& replaced) = 0;

  // Stops tracking and leaves no trace in the process (unregister). For migrations that end without a
  // cutover.
  virtual Result<void> stop() = 0;
};

// Injects userfaultfd(2) through the stopped puppet, takes the descriptor out and sets it up (UFFDIO_API).
// The puppet may be released afterwards.
Result<std::unique_ptr<DirtyTracker>> make_uffd_async_tracker(pid_t pid, Puppet& puppet);

}  // namespace godwit::runtime
