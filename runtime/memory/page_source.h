// PageSource: decides which pages of a container travel in a round, and reads them straight into link
// buffers.
//
// It owns one DirtyTracker per process and knows, per page, whether and with what content (XXH3-128) the
// target has it. A page is sent when it is populated and new, or was written and really changed. Pages that
// the source no longer has (MADV_DONTNEED, munmap and mmap) are listed in `discards`.
//
//   begin_round(view)            which pages are due; they are protected again before they are read
//   fill(buffer) until 0         packs as many of them as fit
//
// Threads: one at a time.
#pragma once

#include <cstddef>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/result.h"
#include "base/shared_work.h"
#include "runtime/memory/address_space.h"
#include "runtime/memory/content_table.h"
#include "runtime/memory/dirty_tracker.h"
#include "runtime/memory/page_batch.h"

namespace godwit::runtime {

// What of a container's memory there is, in this round: made from a snapshot.
struct ProcessView {
  uint64_t space_id = 0;  // pid in the container
  pid_t host_pid = 0;
  std::vector<Vma> vmas;  // as the target will have them; ascending
  // Bytes that the kernel itself writes when a thread runs (struct rseq): they differ between the ends by
  // nature, digests leave them out. Any alignment.
  std::vector<Range> kernel_bytes;
};
struct SharedMemoryView {
  uint64_t space_id = 0;  // SharedMemory.id
  int fd = -1;            // for reading, opened with O_NOATIME
  uint64_t size = 0;
  // All of it is compared by hash in every round. Without it the same happens wherever it cannot be proven
  // that nobody has written it past its mappings (shared_stamps.h).
  bool always_compared = false;
  // Where it is mapped: writes through any mapping make the page due.
  struct Mapping {
    uint64_t process_space_id = 0;
    uint64_t start = 0;
    uint64_t end = 0;
    uint64_t offset = 0;
  };
  std::vector<Mapping> mappings;
};
struct MemoryView {
  std::vector<ProcessView> processes;
  std::vector<SharedMemoryView> shared_memory;
  bool frozen = false;
};

struct Discard {
  SpaceKind space_kind = SpaceKind::kInvalid;  // kProcess; what vanished from shared memory travels as kZero
  uint64_t space_id = 0;
  Range range;
};

struct RoundPages {
  uint64_t pages_due = 0;  // what the scan found
  // Pages that the target has and must drop (madvise MADV_DONTNEED) after it has taken over the mappings of
  // this round, before it stores the pages of this round.
  std::vector<Discard> discards;
};

struct PageCounters {  // since the construction
  uint64_t pages_sent = 0;
  uint64_t pages_zero = 0;       // sent without payload, or not at all
  uint64_t pages_unchanged = 0;  // written, but with the content the target has
  uint64_t bytes_read = 0;
};

class PageSource {
 public:
  PageSource();
  ~PageSource();
  // A new process; the tracker is its own. Before begin_round with a view that names it. Without a tracker
  // (null, or a process the source was never told of) every populated page is read and compared in every
  // round: right for newcomers of the frozen round, and for a process that uses userfaultfd itself. The same
  // happens when a process executes another program, until add_process is called again.
  void add_process(uint64_t space_id, pid_t host_pid, std::unique_ptr<DirtyTracker> tracker);

  Result<RoundPages> begin_round(const MemoryView& view);
  // The last one: other threads may help with the scan by `work`.
  Result<RoundPages> begin_round(const MemoryView& view, SharedWork& work);
  // Packs the next pages into `buffer` (at least 64 KiB) in the layout of page_batch.h; the number of bytes
  // used, 0 when the round has none left. A range that vanished while it was read is left out (it is gone, or
  // dirty again).
  Result<size_t> fill(std::span<std::byte> buffer);
  [[nodiscard]] uint64_t pages_left() const;
  [[nodiscard]] const PageCounters& counters() const;

  // What the target has of a process or of shared memory by now, if all that was packed has arrived; without
  // the pages that hold kernel_bytes, whose content is nobody's business (their addresses are appended).
  [[nodiscard]] PageSum sum(const ProcessView& process, std::vector<uint64_t>& left_out) const;
  [[nodiscard]] PageSum sum(const SharedMemoryView& object) const;

  // Ends tracking without a trace.
  Result<void> stop();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace godwit::runtime
