// Batches of pages: how they are built in place, and how a received one is checked. See page_batch.h.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "base/result.h"
#include "runtime/memory/page_batch.h"

namespace godwit::runtime {

inline constexpr size_t kBatchBytesMin = size_t{64} << 10;
// User space of x86-64 with five levels of page tables ends here; offsets in shared memory are bounded alike.
inline constexpr uint64_t kAddressMax = uint64_t{1} << 56;

// Builds a batch in a buffer of kBatchBytesMin and more. The pages are read into free_pages() and then added
// one by one; a page that is not added leaves a hole, which the next one closes by moving down.
class BatchBuilder {
 public:
  explicit BatchBuilder(std::span<std::byte> buffer);
  // How many more pages, or zero pages, certainly fit.
  [[nodiscard]] size_t room() const;
  [[nodiscard]] std::byte* free_pages() { return buffer_.data() + payload_end_; }
  // `page` lies at or behind free_pages().
  void add_page(SpaceKind kind, uint64_t space_id, uint64_t address, const std::byte* page);
  void add_zero_page(SpaceKind kind, uint64_t space_id, uint64_t address);
  // Writes the header; the bytes used, 0 if nothing was added.
  size_t finish();

 private:
  void extend(ExtentKind extent, SpaceKind kind, uint64_t space_id, uint64_t address);
  void store_last();
  std::span<std::byte> buffer_;
  size_t extents_max_;
  size_t payload_offset_;
  size_t payload_end_;
  uint32_t extent_count_ = 0;
  Extent last_{};
};

// A batch whose every number was checked: kinds are known, ranges are page-aligned, not empty and below
// kAddressMax, and the payload is exactly that of the extents. The extents are copied before they are
// checked, since a peer with remote access to the buffer could change them afterwards.
class BatchView {
 public:
  static Result<BatchView> check(std::span<const std::byte> batch);
  [[nodiscard]] const std::vector<Extent>& extents() const { return extents_; }
  [[nodiscard]] std::span<const std::byte> payload() const { return payload_; }

 private:
  std::vector<Extent> extents_;
  std::span<const std::byte> payload_;
};

}  // namespace godwit::runtime
