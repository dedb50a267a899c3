// What a PageSource remembers of each space from round to round. Internal to runtime/memory.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <vector>

#include "base/result.h"
#include "runtime/memory/content_table.h"
#include "runtime/memory/dirty_tracker.h"
#include "runtime/memory/page_reader.h"
#include "runtime/memory/page_source.h"
#include "runtime/memory/pagemap.h"
#include "runtime/memory/process_memory.h"
#include "runtime/memory/shared_stamps.h"

namespace godwit::runtime {

// The allocated pages of a shared-memory object (lseek(2), SEEK_DATA); not cheap: some 8 ms for 1 GiB.
Result<Ranges> allocated_pages(const SharedMemoryView& view);

// What the page tables of one process say in this round; all ascending.
struct ProcessFindings {
  Ranges written;  // private pages and parts of shared mappings
  Ranges lost;     // private pages and mappings whose history is unknown, or that are gone
  // Parts of shared mappings that anything may have happened to.
  Ranges shared_unknown;
};

// The private memory of one process.
class ProcessSpace {
 public:
  ProcessSpace(uint64_t space_id, pid_t host_pid, std::unique_ptr<DirtyTracker> tracker);
  [[nodiscard]] pid_t host_pid() const { return memory_.pid(); }
  void set_tracker(std::unique_ptr<DirtyTracker> tracker);
  // Looks at the mappings (`shared`: those of its shared mappings that matter), adds due private pages to the
  // reader and vanished ones to `discards`; reports what concerns shared mappings in the findings.
  // `last_work` in the last round, of the frozen process; null before.
  Result<ProcessFindings> begin_round(const ProcessView& view, const Ranges& shared, SharedWork* last_work,
                                      PageReader& reader, std::vector<Discard>& discards);
  // Of the table, but for the pages that hold `kernel_bytes`.
  [[nodiscard]] PageSum sum(const std::vector<Range>& kernel_bytes, std::vector<uint64_t>& left_out);
  Result<void> stop();

 private:
  Result<void> ask_tracker(const std::vector<Vma>& vmas, SharedWork* last_work, Ranges& fresh,
                           ProcessFindings& findings);
  Result<void> ask_last(const std::vector<Vma>& vmas, SharedWork& work, Ranges& fresh,
                        ProcessFindings& findings);
  Result<void> compare_all(const std::vector<Vma>& vmas, ProcessFindings& findings);
  Result<void> add_populated(const std::vector<Vma>& vmas, const Ranges& where, Ranges& pages);
  Result<void> add_absent(const std::vector<Vma>& vmas, Ranges& pages);
  void add_due(const std::vector<Vma>& vmas, const Ranges& due, PageReader& reader);

  uint64_t space_id_;
  ProcessMemory memory_;
  std::unique_ptr<DirtyTracker> tracker_;  // null: every populated page is compared
  std::optional<Pagemap> pagemap_;
  ContentTable table_;
  std::vector<Vma> vmas_;  // of the round before
};

// One shared-memory object.
class SharedSpace {
 public:
  explicit SharedSpace(uint64_t space_id) : space_id_(space_id) {}
  // Offsets of the object that mappings were written through, by address ranges of a process.
  void note_written(const SharedMemoryView& view, uint64_t process_space_id, const Ranges& addresses);
  Result<void> begin_round(const SharedMemoryView& view, bool frozen, PageReader& reader);
  [[nodiscard]] PageSum sum() const { return table_.sum(); }

 private:
  void note_lost_mappings(const SharedMemoryView& view);
  [[nodiscard]] bool may_have_holes(const SharedStamps& now, const Ranges& due) const;

  uint64_t space_id_;
  ContentTable table_;
  Ranges due_;                                       // unsorted until begin_round
  std::vector<SharedMemoryView::Mapping> mappings_;  // of the round before
  bool seen_ = false;
  SharedStamps stamps_;  // of the round before
  int64_t blocks_ = 0;   // allocated, when its holes were looked at last
};

}  // namespace godwit::runtime
