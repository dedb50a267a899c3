// BufferMemory: the memory of a link's buffers: populated at once, so that no page fault happens in the
// frozen path, and not inherited by fork(2), because the hold that the kernel or an adapter has on registered
// pages makes a fork copy them. Zeroed at first. Sole owner.
#pragma once

#include <cstddef>
#include <span>
#include <utility>

#include "base/result.h"

namespace godwit::transport {

inline constexpr size_t kPageBytes = 4096;

class BufferMemory {
 public:
  static Result<BufferMemory> create(size_t size);
  BufferMemory(BufferMemory&& other) noexcept : memory_(std::exchange(other.memory_, {})) {}
  BufferMemory& operator=(BufferMemory&&) = delete;
  BufferMemory(const BufferMemory&) = delete;
  BufferMemory& operator=(const BufferMemory&) = delete;
  ~BufferMemory();

  [[nodiscard]] std::span<std::byte> all() const { return memory_; }

 private:
  explicit BufferMemory(std::span<std::byte> memory) : memory_(memory) {}
  std::span<std::byte> memory_;
};

}  // namespace godwit::transport
