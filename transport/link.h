// Link: moves batches of bytes from a source to a target in registered buffers, by one or several streams.
//
// Within one stream batches arrive in the order they were submitted; between streams there is no order but
// the barrier. The link does not know what the bytes mean. Implementations: transport/tcp (io_uring),
// transport/fake (in memory, with fault injection, for tests), transport/rdma.
//
//   source                                   target
//   acquire(stream)  -> empty buffer         receive()  -> full buffer
//   fill it
//   submit(buffer, size)                     use it
//   barrier(token): returns when all         release(buffer)   (returns the credit)
//   that was submitted has been released
//
// Ownership: buffers belong to the link; between acquire and submit, and between receive and release, they
// are the caller's alone. One copy at each end: read the pages into the buffer, write them from it. Threads:
// a LinkSender is used by one thread. A LinkReceiver may be used by several threads at once. Errors:
// everything that goes wrong (a cut connection, a malformed frame, a deadline) ends the link: all later calls
// return the same error. Nothing blocks longer than the deadline that was set.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>

#include "base/result.h"

namespace godwit::transport {

struct LinkOptions {
  uint32_t streams = 1;              // 1 .. kStreamsMax
  uint32_t buffer_bytes = 1U << 20;  // capacity of a buffer, bytes
  uint32_t buffers_per_stream = 8;   // also the credits of a stream
};
inline constexpr uint32_t kStreamsMax = 16;
inline constexpr uint32_t kBufferBytesMax = 16U << 20;

struct LinkCounters {
  uint64_t bytes = 0;  // payload bytes submitted or received
  uint64_t batches = 0;
};

class LinkSender {
 public:
  struct Buffer {
    std::span<std::byte> memory;
    uint32_t index = 0;
    uint32_t stream = 0;
  };
  virtual ~LinkSender() = default;
  [[nodiscard]] virtual const char* name() const = 0;
  [[nodiscard]] virtual uint32_t streams() const = 0;
  // All calls fail with ETIMEDOUT after this moment (base/clock.h monotonic_ns; 0, as at first: no deadline).
  virtual void set_deadline_ns(int64_t deadline_ns) = 0;
  // An empty buffer of this stream; waits for a credit.
  virtual Result<Buffer> acquire(uint32_t stream) = 0;
  // `size` is 1 .. buffer_bytes. Returns at once; the batch is on its way. A wrong buffer or size is EINVAL
  // and does not end the link.
  virtual Result<void> submit(const Buffer& buffer, uint32_t size) = 0;
  // Waits until the receiver has released every batch submitted before. `token` is for both ends' logs.
  virtual Result<void> barrier(uint64_t token) = 0;
  [[nodiscard]] virtual LinkCounters counters() const = 0;
};

class LinkReceiver {
 public:
  struct Batch {
    std::span<const std::byte> bytes;
    uint32_t index = 0;
    uint32_t stream = 0;
  };
  virtual ~LinkReceiver() = default;
  [[nodiscard]] virtual const char* name() const = 0;
  // As for the sender; calls that wait already keep the deadline they began with. Any thread.
  virtual void set_deadline_ns(int64_t deadline_ns) = 0;
  // Waits for the next batch of any stream. Nothing: the sender closed the link in order.
  virtual Result<std::optional<Batch>> receive() = 0;
  virtual Result<void> release(const Batch& batch) = 0;
  // Makes every receive() return ECANCELED, from any thread.
  virtual void cancel() = 0;
  [[nodiscard]] virtual LinkCounters counters() const = 0;
};

}  // namespace godwit::transport
