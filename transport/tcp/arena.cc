#include "transport/tcp/arena.h"

namespace godwit::transport {
namespace {

constexpr size_t kControlBytes = kPageBytes;
constexpr size_t kHeadroomBytes = kPageBytes;

size_t slot_bytes(const LinkOptions& options) {
  return kHeadroomBytes + (options.buffer_bytes + kPageBytes - 1) / kPageBytes * kPageBytes;
}

size_t region_bytes(const LinkOptions& options) {
  return kControlBytes + options.buffers_per_stream * slot_bytes(options);
}

}  // namespace

Result<Arena> Arena::create(const LinkOptions& options) {
  GODWIT_ASSIGN(BufferMemory memory, BufferMemory::create(options.streams * region_bytes(options)));
  return Arena(options, std::move(memory));
}

std::span<std::byte> Arena::region(uint32_t stream) const {
  return memory_.all().subspan(stream * region_bytes(options_), region_bytes(options_));
}

std::span<std::byte> Arena::control(uint32_t stream) const {
  return region(stream).first(kControlBytes);
}

std::span<std::byte> Arena::payload(uint32_t stream, uint32_t index) const {
  return region(stream).subspan(kControlBytes + index * slot_bytes(options_) + kHeadroomBytes,
                                options_.buffer_bytes);
}

FrameBytes Arena::header(uint32_t stream, uint32_t index) const {
  return FrameBytes(payload(stream, index).data() - sizeof(FrameHeader), sizeof(FrameHeader));
}

std::span<std::byte> Arena::frame(uint32_t stream, uint32_t index, uint32_t size) const {
  return {header(stream, index).data(), sizeof(FrameHeader) + size};
}

}  // namespace godwit::transport
