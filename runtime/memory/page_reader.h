// PageReader: reads the due pages of a round into link buffers, and leaves out what the target has already.
//
// Pages are read in pieces that stay in the cache while they are judged: zero, unchanged (by hash), or to be
// sent. What is sent stays where it was read; holes are closed by moving the next pages down.
//
// Threads: one at a time. The spaces that runs point to must outlive clear().
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <span>
#include <vector>

#include "base/result.h"
#include "runtime/memory/batch.h"
#include "runtime/memory/content_table.h"
#include "runtime/memory/page_source.h"
#include "runtime/memory/pagemap.h"
#include "runtime/memory/process_memory.h"

namespace godwit::runtime {

class PageReader {
 public:
  // Due pages of one mapping, or of one shared-memory object.
  struct Run {
    SpaceKind kind = SpaceKind::kInvalid;
    uint64_t space_id = 0;
    ProcessMemory* memory = nullptr;  // kProcess
    int fd = -1;                      // kSharedMemory
    ContentTable* table = nullptr;
    PageClass page_class = PageClass::kAnonymous;
    bool readable = true;  // by the mapping's protection
    Range range;
  };
  // Forgets all runs. `frozen`: whether a process that is gone is an error.
  void clear(bool frozen);
  void add(const Run& run);
  [[nodiscard]] uint64_t pages_left() const { return pages_left_; }
  Result<size_t> fill(std::span<std::byte> buffer, PageCounters& counters);

 private:
  Result<void> read_piece(BatchBuilder& batch, PageCounters& counters);
  void gather(size_t pages_max);
  Result<size_t> read(std::byte* to);
  void judge(const Run& run, uint64_t address, const std::byte* page, BatchBuilder& batch,
             PageCounters& counters);
  void consume(uint64_t bytes);
  // The first page of the first run could not be read: its mapping forbids it, or it is gone.
  Result<void> step_over_page(BatchBuilder& batch, PageCounters& counters);
  Result<void> drop_vanished();
  void drop_space();

  bool frozen_ = false;
  std::deque<Run> runs_;
  uint64_t pages_left_ = 0;
  std::vector<Range> piece_;  // of runs_, from the first on
};

}  // namespace godwit::runtime
