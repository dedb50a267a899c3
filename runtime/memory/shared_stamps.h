// Proof that nobody used a shared-memory object where no page table shows it.
//
// Page tables, which the trackers watch, show what is written through the mappings that one knows. They do
// not show write(2) and its kin, nor a mapping that came and went between two rounds. The times of the object
// do: writing by a descriptor changes st_mtime and st_ctime (the latter cannot be set back), mmap(2) changes
// st_atime. Three things have to hold:
//
// * Times are as coarse as the timer tick. So what happened within kSettleNs before they were read may be
//   followed by more under the same time, and proves nothing.
// * write(2) changes the time first and writes then. lseek(2) with SEEK_DATA waits for a write(2) that is
//   under way (both take the inode's lock): call it after the clock was read and before the times are. Frozen
//   processes are in no such call.
// * Whoever opens it with O_NOATIME maps it without a trace, and so do we: the descriptor by which the agent
//   reads it has this flag.
//
// What it does not prove: that no process which inherited a mapping by fork(2) wrote and ended unseen.
#pragma once

#include <cstdint>

#include "base/result.h"

namespace godwit::runtime {

// The times of one object at one moment.
class SharedStamps {
 public:
  static constexpr int64_t kSettleNs = 100'000'000;

  SharedStamps() = default;
  // Asks the kernel, once, whether it keeps the times so: some milliseconds that are not the frozen round's.
  static void prepare();
  // `begun_ns`: wall_clock_ns() before the lock was waited for.
  static Result<SharedStamps> read(int fd, int64_t begun_ns);
  // Whether nothing happened from when these were read to when `now` was.
  [[nodiscard]] bool prove_untouched(const SharedStamps& now) const;
  [[nodiscard]] int64_t blocks() const { return blocks_; }

 private:
  int64_t accessed_ns_ = 0;
  int64_t modified_ns_ = 0;
  int64_t changed_ns_ = 0;
  int64_t blocks_ = 0;
  bool settled_ = false;
};

[[nodiscard]] int64_t wall_clock_ns();

}  // namespace godwit::runtime
