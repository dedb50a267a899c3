// Arena: the memory of the buffers at one end of a link: populated at once, so that no page fault happens in
// the frozen path, and not inherited by fork(2), because the kernel's hold on registered pages makes a fork
// copy them.
//
// One region for each stream: a control page, then the buffers. Each buffer begins on a page boundary and has
// a page of headroom before it; its frame header lies at the end of the headroom, directly before the
// payload, so that one write sends both.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>

#include "base/result.h"
#include "transport/link.h"
#include "transport/tcp/frame.h"

namespace godwit::transport {

class Arena {
 public:
  // `options` have passed check_options().
  static Result<Arena> create(const LinkOptions& options);
  Arena(Arena&& other) noexcept : options_(other.options_), memory_(std::exchange(other.memory_, {})) {}
  Arena& operator=(Arena&&) = delete;
  Arena(const Arena&) = delete;
  Arena& operator=(const Arena&) = delete;
  ~Arena();

  [[nodiscard]] const LinkOptions& options() const { return options_; }
  [[nodiscard]] std::span<std::byte> all() const { return memory_; }
  // Everything of one stream.
  [[nodiscard]] std::span<std::byte> region(uint32_t stream) const;
  // A page for frames without payload.
  [[nodiscard]] std::span<std::byte> control(uint32_t stream) const;
  [[nodiscard]] std::span<std::byte> payload(uint32_t stream, uint32_t index) const;
  [[nodiscard]] FrameBytes header(uint32_t stream, uint32_t index) const;
  // Header and the first `size` bytes of the payload.
  [[nodiscard]] std::span<std::byte> frame(uint32_t stream, uint32_t index, uint32_t size) const;

 private:
  Arena(const LinkOptions& options, std::span<std::byte> memory) : options_(options), memory_(memory) {}

  LinkOptions options_;
  std::span<std::byte> memory_;
};

}  // namespace godwit::transport
