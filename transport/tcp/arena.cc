#include "transport/tcp/arena.h"

#include <sys/mman.h>

namespace godwit::transport {
namespace {

constexpr size_t kPageBytes = 4096;
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
  const size_t size = options.streams * region_bytes(options);
  const std::string name = std::to_string(size) + " bytes for the buffers of a link";
  void* const memory = ::mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) return fail("map", name);
  Arena arena(options, {static_cast<std::byte*>(memory), size});
  if (::madvise(memory, size, MADV_DONTFORK) != 0) return fail("keep from children", name);
  // Huge pages make the copies cheaper where the kernel has them; without them nothing changes but the speed.
  static_cast<void>(::madvise(memory, size, MADV_HUGEPAGE));
  // MADV_POPULATE_WRITE reports a lack of memory as an error instead of a signal (Linux 5.14).
  if (::madvise(memory, size, MADV_POPULATE_WRITE) != 0) return fail("populate", name);
  return arena;
}

Arena::~Arena() {
  if (!memory_.empty()) ::munmap(memory_.data(), memory_.size());
}

std::span<std::byte> Arena::region(uint32_t stream) const {
  return memory_.subspan(stream * region_bytes(options_), region_bytes(options_));
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
