// Digests of memory, to compare both ends of a migration.
//
// What counts: pages of anonymous and shared memory that are not zero (a zero page and no page are the same
// to the program), and all populated private pages of file mappings (there no page means the file's content).
// So equal memories have equal digests, however they came about.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "base/result.h"
#include "runtime/memory/content_table.h"
#include "runtime/memory/page_source.h"

namespace godwit::runtime {

struct SpaceDigest {
  SpaceKind kind = SpaceKind::kInvalid;
  uint64_t space_id = 0;
  PageSum sum;
  friend bool operator==(const SpaceDigest&, const SpaceDigest&) = default;
};

// Reads all of it, by two threads. Of processes that do not run.
Result<std::vector<SpaceDigest>> digest_memory(const MemoryView& view);

// MemoryDigest: the same digest, kept up to date while the memory changes, so that in the end only what was
// written last has to be read: the target's side of a verified migration.
//
// It is as good as the trackers that it is given. Shared memory is read whole each time.
//
// Threads: one at a time.
class MemoryDigest {
 public:
  MemoryDigest();
  // As PageSource::add_process.
  void add_process(uint64_t space_id, pid_t host_pid, std::unique_ptr<DirtyTracker> tracker);
  // Reads what is new. In between, processes may run and memory may be written.
  Result<void> update(MemoryView view);
  // As of the last update, which was of a view that is frozen.
  Result<std::vector<SpaceDigest>> digests(const MemoryView& view);

 private:
  PageSource pages_;
  std::unique_ptr<std::byte[]> buffer_;
};

}  // namespace godwit::runtime
