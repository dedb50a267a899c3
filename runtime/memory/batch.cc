#include "runtime/memory/batch.h"

#include <algorithm>
#include <cstring>

namespace godwit::runtime {
namespace {

constexpr size_t kPayloadAlignment = 64;

size_t align(size_t bytes) {
  return (bytes + kPayloadAlignment - 1) / kPayloadAlignment * kPayloadAlignment;
}

std::unexpected<Error> malformed(std::string why) {
  return fail("check a batch of pages", "from the peer", EBADMSG, std::move(why));
}

bool is_sound(const Extent& extent) {
  return (extent.space_kind == SpaceKind::kProcess || extent.space_kind == SpaceKind::kSharedMemory) &&
         (extent.kind == ExtentKind::kPages || extent.kind == ExtentKind::kZero) && extent.size != 0 &&
         extent.start % kPageSize == 0 && extent.size % kPageSize == 0 && extent.size <= kAddressMax &&
         extent.start <= kAddressMax - extent.size;
}

}  // namespace

// One extent for each page that fits, so that scattered pages never run out of extents before the payload.
BatchBuilder::BatchBuilder(std::span<std::byte> buffer)
    : buffer_(buffer),
      extents_max_((buffer.size() - sizeof(BatchHeader) - kPayloadAlignment) / (kPageSize + sizeof(Extent))),
      payload_offset_(align(sizeof(BatchHeader) + extents_max_ * sizeof(Extent))),
      payload_end_(payload_offset_) {}

size_t BatchBuilder::room() const {
  return std::min((buffer_.size() - payload_end_) / kPageSize, extents_max_ - extent_count_);
}

void BatchBuilder::store_last() {
  std::memcpy(buffer_.data() + sizeof(BatchHeader) + (extent_count_ - 1) * sizeof(Extent), &last_,
              sizeof last_);
}

void BatchBuilder::extend(ExtentKind extent, SpaceKind kind, uint64_t space_id, uint64_t address) {
  if (extent_count_ != 0 && last_.kind == extent && last_.space_kind == kind && last_.space_id == space_id &&
      last_.start + last_.size == address) {
    last_.size += kPageSize;
    return;
  }
  if (extent_count_ != 0) store_last();
  ++extent_count_;
  last_ = {.space_kind = kind, .kind = extent, .space_id = space_id, .start = address, .size = kPageSize};
}

void BatchBuilder::add_page(SpaceKind kind, uint64_t space_id, uint64_t address, const std::byte* page) {
  extend(ExtentKind::kPages, kind, space_id, address);
  if (page != free_pages()) std::memmove(free_pages(), page, kPageSize);
  payload_end_ += kPageSize;
}

void BatchBuilder::add_zero_page(SpaceKind kind, uint64_t space_id, uint64_t address) {
  extend(ExtentKind::kZero, kind, space_id, address);
}

size_t BatchBuilder::finish() {
  if (extent_count_ == 0) return 0;
  store_last();
  const BatchHeader header{.extent_count = extent_count_,
                           .payload_offset = payload_offset_,
                           .payload_size = payload_end_ - payload_offset_};
  std::memcpy(buffer_.data(), &header, sizeof header);
  // The unused places of the extent table travel; they shall not carry what the buffer held before.
  const size_t used = sizeof header + extent_count_ * sizeof(Extent);
  std::memset(buffer_.data() + used, 0, payload_offset_ - used);
  return payload_end_;
}

Result<BatchView> BatchView::check(std::span<const std::byte> batch) {
  BatchHeader header;
  if (batch.size() < sizeof header) return malformed("shorter than its header");
  std::memcpy(&header, batch.data(), sizeof header);
  if (header.magic != kBatchMagic) return malformed("it does not begin as one");
  const uint64_t extents_max = (batch.size() - sizeof header) / sizeof(Extent);
  if (header.extent_count > extents_max) return malformed("more extents than it has room for");
  const uint64_t extents_end = sizeof header + uint64_t{header.extent_count} * sizeof(Extent);
  if (header.payload_offset < extents_end || header.payload_offset > batch.size() ||
      header.payload_size > batch.size() - header.payload_offset)
    return malformed("its payload is out of bounds");
  BatchView view;
  view.extents_.resize(header.extent_count);
  view.payload_ = batch.subspan(header.payload_offset, header.payload_size);
  std::memcpy(view.extents_.data(), batch.data() + sizeof header, extents_end - sizeof header);
  uint64_t payload = 0;
  for (const Extent& extent : view.extents_) {
    if (!is_sound(extent)) return malformed("an extent is not sound");
    if (extent.kind != ExtentKind::kPages) continue;
    if (extent.size > header.payload_size - payload)
      return malformed("extents need more payload than there is");
    payload += extent.size;
  }
  if (payload != header.payload_size) return malformed("payload that belongs to no extent");
  return view;
}

}  // namespace godwit::runtime
