// Arena: the buffers at one end of a TCP link (transport/buffer_memory.h).
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
#include "transport/buffer_memory.h"
#include "transport/link.h"
#include "transport/tcp/frame.h"

namespace godwit::transport {

class Arena {
 public:
  // `options` have passed check_options().
  static Result<Arena> create(const LinkOptions& options);

  [[nodiscard]] const LinkOptions& options() const { return options_; }
  [[nodiscard]] std::span<std::byte> all() const { return memory_.all(); }
  // Everything of one stream.
  [[nodiscard]] std::span<std::byte> region(uint32_t stream) const;
  // A page for frames without payload.
  [[nodiscard]] std::span<std::byte> control(uint32_t stream) const;
  [[nodiscard]] std::span<std::byte> payload(uint32_t stream, uint32_t index) const;
  [[nodiscard]] FrameBytes header(uint32_t stream, uint32_t index) const;
  // Header and the first `size` bytes of the payload.
  [[nodiscard]] std::span<std::byte> frame(uint32_t stream, uint32_t index, uint32_t size) const;

 private:
  Arena(const LinkOptions& options, BufferMemory memory) : options_(options), memory_(std::move(memory)) {}

  LinkOptions options_;
  BufferMemory memory_;
};

}  // namespace godwit::transport
