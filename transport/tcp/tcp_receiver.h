// TcpReceiver: the target's end of a TCP link, used by several threads at once.
//
// All sockets are in one epoll instance with EPOLLONESHOT. A thread in receive() waits there, gets one stream
// to itself, reads one frame by that stream's own SocketIo (its own ring), arms the stream again and returns.
// So several streams are read in parallel, one thread serves any number of streams, and no request outlives
// the call that made it, which matters because the kernel works in the context of the thread that asked.
#pragma once

#include <atomic>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "base/fd.h"
#include "transport/link.h"
#include "transport/tcp/arena.h"
#include "transport/tcp/socket_io.h"

namespace godwit::transport {

class TcpReceiver final : public LinkReceiver {
 public:
  // The sockets have sent their hello and await kWelcome; one per stream, in order, in blocking mode.
  static Result<std::unique_ptr<TcpReceiver>> create(std::vector<Fd> sockets, const LinkOptions& options,
                                                     TcpIo io);
  TcpReceiver(const TcpReceiver&) = delete;
  TcpReceiver& operator=(const TcpReceiver&) = delete;
  ~TcpReceiver() override;

  // Lets the sender begin.
  Result<void> welcome(int64_t deadline_ns);

  [[nodiscard]] const char* name() const override;
  void set_deadline_ns(int64_t deadline_ns) override { deadline_ns_ = deadline_ns; }
  Result<std::optional<Batch>> receive() override;
  Result<void> release(const Batch& batch) override;
  void cancel() override;
  [[nodiscard]] LinkCounters counters() const override {
    return {.bytes = bytes_.load(), .batches = batches_.load()};
  }

 private:
  struct Stream {
    Fd socket;
    // Of the thread that epoll gave the stream to.
    std::unique_ptr<SocketIo> io;
    std::vector<SocketIo::Completion> completions;
    uint64_t received = 0;
    // Under the mutex.
    std::mutex mutex;
    std::vector<bool> taken;  // per buffer: read into, or the caller's
    uint64_t released = 0;
    bool crediting = false;  // a thread is sending credits and will send ours, too
    bool closed = false;
  };

  TcpReceiver(std::vector<Fd> sockets, Arena arena);
  Result<void> open(TcpIo io);
  Result<void> arm(uint32_t stream, int operation);
  std::unexpected<Error> end(Error error);
  // Whether receive() is over: nothing while it is not, else whether all streams have been closed in order.
  Result<bool> is_over();
  Result<std::optional<uint32_t>> wait_for_stream();
  Result<std::optional<Batch>> read_stream(uint32_t stream);
  Result<Batch> read_batch(uint32_t stream, const FrameHeader& header);
  Result<void> close_stream(uint32_t stream, const FrameHeader& header);
  Result<void> read_exactly(uint32_t stream, std::span<std::byte> bytes);
  Result<uint32_t> take_buffer(Stream& stream);
  Result<void> send_credits_for(Stream& stream, uint32_t index);

  Arena arena_;
  std::vector<std::unique_ptr<Stream>> streams_;
  Fd epoll_;
  Fd over_;  // eventfd, readable for ever once the link has ended
  std::atomic<int64_t> deadline_ns_ = 0;
  std::atomic<uint64_t> bytes_ = 0;
  std::atomic<uint64_t> batches_ = 0;
  std::mutex state_mutex_;
  std::optional<Error> error_;   // under state_mutex_
  uint32_t closed_streams_ = 0;  // under state_mutex_
};

}  // namespace godwit::transport
