// ContentTable: which pages of one space the target has, and with what content.
//
// 16 bytes a page, in chunks of 512 pages (2 MiB of address space), so that sets of pages are compared 64 at
// a time and memory that was never sent costs nothing. A page that is not in the table is fresh at the
// target: it reads as zeroes, or as the file's for a private mapping of a file.
//
// Threads: one at a time. Addresses are page-aligned bytes.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>

#include "runtime/memory/page_batch.h"
#include "runtime/memory/range_set.h"

namespace godwit::runtime {

// XXH3-128 of a page.
struct PageHash {
  uint64_t low = 0;
  uint64_t high = 0;
  friend bool operator==(const PageHash&, const PageHash&) = default;
};
[[nodiscard]] PageHash hash_page(const std::byte* page);
[[nodiscard]] const PageHash& hash_of_zero_page();
[[nodiscard]] bool is_zero_page(const std::byte* page);

// A set of pages with their contents in one number: each page is hashed with its address, and the hashes are
// added up. So the order does not matter, and pages can be taken out again.
struct PageSum {
  uint64_t pages = 0;
  uint64_t low = 0;
  uint64_t high = 0;
  void add(uint64_t address, const PageHash& hash);
  void subtract(uint64_t address, const PageHash& hash);
  void add(const PageSum& other);
  friend bool operator==(const PageSum&, const PageSum&) = default;
};

class ContentTable {
 public:
  // Null if the target does not have the page. The pointer holds until the next change.
  [[nodiscard]] const PageHash* find(uint64_t address);
  void put(uint64_t address, const PageHash& hash);
  // Removes the pages of `ranges` and returns those that were there.
  Ranges take(const Ranges& ranges);
  // The pages of `ranges` that are there.
  [[nodiscard]] Ranges known(const Ranges& ranges) const;
  // Removes every page outside of `ranges`.
  void keep_only(const Ranges& ranges);
  [[nodiscard]] uint64_t pages() const { return sum_.pages; }
  // Of all pages that are there; kept up to date, asking costs nothing.
  [[nodiscard]] const PageSum& sum() const { return sum_; }

 private:
  static constexpr uint64_t kChunkPages = 512;
  static constexpr uint64_t kChunkBytes = kChunkPages * kPageSize;
  static constexpr uint64_t kWords = kChunkPages / 64;
  struct Chunk {
    std::array<uint64_t, kWords> present{};
    std::array<PageHash, kChunkPages> hashes;
  };
  [[nodiscard]] Chunk* chunk_of(uint64_t address);
  // Calls `visit` with each word of the chunk that has pages of the range, and the mask of these.
  template <typename ChunkType, typename Visit>
  static void visit_words(uint64_t base, ChunkType& chunk, Range range, Visit visit);
  void take_range(Range range, Ranges& taken);

  std::map<uint64_t, std::unique_ptr<Chunk>> chunks_;  // by the address of their first page
  uint64_t last_base_ = ~uint64_t{0};                  // of the chunk found last
  Chunk* last_chunk_ = nullptr;
  PageSum sum_;
};

}  // namespace godwit::runtime
