// DirtyTracker: which pages of one process were written since one last asked.
//
// The one interface of three ways that a kernel may have (and of store_tracker.h). Guarantee: no write is
// missed. A page written after collect() began is reported by this collect() or the next one, by whatever
// means it was written. Pages may be reported that were not written (false positives).
//
// A round of a running process is collect(), then follow() with its mappings; what follow() finds new is
// recorded from then on, and all its populated pages count as written. The last round, of the frozen process,
// is collect_last() alone: it changes nothing in the process.
//
// ESRCH of any call: the address space is gone (the process ended, or called execve(2)). The tracker is of no
// use any more.
//
// Threads: one at a time. The process may run, map, unmap and fork meanwhile; a tracker that cannot bear that
// in a step of its own makes it stand still for the step.
#pragma once

#include <sys/types.h>

#include <functional>
#include <memory>
#include <vector>

#include "base/fd.h"
#include "base/result.h"
#include "base/shared_work.h"
#include "runtime/memory/address_space.h"
#include "runtime/memory/range_set.h"

namespace godwit::runtime {

class Puppet;

class DirtyTracker {
 public:
  // What is followed newly, and the populated private pages in it (shared mappings: none are listed, the
  // object knows its pages).
  struct Followed {
    Ranges areas;
    Ranges populated;
  };
  // All ascending and merged.
  struct LastRound {
    Ranges written;
    Ranges absent;      // private pages that are not populated (or are the file's)
    Ranges unfollowed;  // parts of the mappings about which nothing is known: new, or replaced since follow()
  };

  virtual ~DirtyTracker() = default;
  [[nodiscard]] virtual const char* name() const = 0;

  // Follows the mappings `vmas` (ascending; those that can hold private or shared-memory pages; the caller
  // has filtered vdso and the like): registers and write-protects what is new, forgets what is gone. From
  // here on writes are recorded. A mapping that vanished or changed meanwhile is reported as new, and will be
  // again.
  virtual Result<Followed> follow(const std::vector<Vma>& vmas) = 0;

  // The ranges written since the last collect (or follow), merged and ascending; write-protects them again in
  // the same step. Ranges whose mapping was replaced since follow() are reported in `replaced`, not in the
  // result, and are followed no longer: the next follow() takes them as new.
  virtual Result<Ranges> collect(Ranges& replaced) = 0;

  // The same for a process that does not run, without protecting anything: one walk of its page tables, by
  // this thread and those that help with `work`.
  virtual Result<LastRound> collect_last(const std::vector<Vma>& vmas, SharedWork& work) = 0;

  // Stops tracking and leaves no trace in the process (unregister). For migrations that end without a
  // cutover.
  virtual Result<void> stop() = 0;
};

// Runs `step` while nobody who could write to the memory of the process runs, in kernel mode neither, and
// lets them go on whatever the outcome. Its own failure (they do not stop) is returned, and then `step` has
// not run.
using Standstill = std::function<Result<void>(const std::function<Result<void>()>& step)>;

// userfaultfd(2) with WP_ASYNC: nobody waits for us, PAGEMAP_SCAN reads and protects in one step.
//
// Injects userfaultfd(2) through the stopped puppet, takes the descriptor out and sets it up (UFFDIO_API).
// The puppet may be released afterwards. (Linked with runtime/process.)
Result<std::unique_ptr<DirtyTracker>> make_uffd_async_tracker(pid_t pid, Puppet& puppet);
// The same with a userfaultfd that the process itself has made and that was not set up yet.
Result<std::unique_ptr<DirtyTracker>> make_uffd_async_tracker(pid_t pid, Fd userfaultfd);

// userfaultfd(2) with synchronous write-protection: the first writer of a page waits for a thread of ours.
// Private mappings of files, and before Linux 5.19 shared memory, cannot be followed so: their pages count as
// written in every round. ptrace(2) and /proc/PID/mem cannot write to protected pages meanwhile.
//
// The descriptor must serve faults of the kernel, which takes CAP_SYS_PTRACE, vm.unprivileged_userfaultfd or
// /dev/userfaultfd (Linux 6.1) to make: the last is what is tried first.
Result<std::unique_ptr<DirtyTracker>> make_uffd_sync_tracker(pid_t pid, Puppet& puppet);
Result<std::unique_ptr<DirtyTracker>> make_uffd_sync_tracker(pid_t pid, Fd userfaultfd);

// Soft-dirty bits: collect() makes the process stand still while it reads them (7.7 ms for 512 MiB here) and
// clears them (1 ms a GiB). Shared memory counts as written in every round. Not for two trackers of one
// process.
Result<std::unique_ptr<DirtyTracker>> make_soft_dirty_tracker(pid_t pid, Standstill standstill);

}  // namespace godwit::runtime
