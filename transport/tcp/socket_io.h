// SocketIo: starts sends and receives on a few connected TCP sockets and reports what became of them. Two
// implementations: io_uring (uring_io.cc), and plain send(2) and recv(2) for hosts that forbid io_uring
// (plain_io.cc).
//
// At most one send and one receive at a time per socket; sockets are named by their index in the list given
// at creation. A send may complete short, as may a receive; the caller starts the rest. Memory stays in use
// until the completion is reported, and with `buffer_held` until a kBufferFree with the same socket and tag.
// The sockets are the caller's; it closes them after the SocketIo is gone.
//
// Threads: one at a time; a receive must be waited for by the thread that started it, because the kernel does
// its work in that thread's context. The destructor waits for what is under way, so shut the sockets down
// first.
#pragma once

#include <sys/uio.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "base/result.h"
#include "transport/tcp/tcp_link.h"

namespace godwit::transport {

class SocketIo {
 public:
  enum class Event : uint8_t { kInvalid = 0, kSent, kReceived, kBufferFree };
  struct Completion {
    Event event = Event::kInvalid;
    bool buffer_held = false;  // kSent only: the memory is still in use
    uint32_t socket = 0;
    uint32_t tag = 0;    // of the send
    int32_t result = 0;  // bytes, or a negative errno; a receive of 0 bytes is the end of the stream
  };

  virtual ~SocketIo() = default;
  [[nodiscard]] virtual const char* name() const = 0;
  // On its way when this returns, as far as the socket takes it.
  virtual Result<void> start_send(uint32_t socket, uint32_t tag, std::span<const std::byte> bytes) = 0;
  // Begins with the next start_send() or reap().
  virtual Result<void> start_receive(uint32_t socket, std::span<std::byte> bytes) = 0;
  // Replaces `completions` by what has completed. Waits for at least one until the deadline (0: none); an
  // empty list means that it has passed.
  virtual Result<void> reap(int64_t deadline_ns, std::vector<Completion>& completions) = 0;
  // The same without waiting.
  virtual Result<void> reap_ready(std::vector<Completion>& completions) = 0;
};

// All memory that is sent from or received into lies in `memory`. kAuto takes io_uring where the host allows
// it.
Result<std::unique_ptr<SocketIo>> make_socket_io(TcpIo io, std::span<const int> sockets,
                                                 std::span<std::byte> memory);
Result<std::unique_ptr<SocketIo>> make_uring_io(std::span<const int> sockets, std::span<std::byte> memory,
                                                bool zero_copy);
std::unique_ptr<SocketIo> make_plain_io(std::span<const int> sockets);

}  // namespace godwit::transport
