// TcpSender: the source's end of a TCP link. One SocketIo carries all streams; each stream sends one buffer
// at a time, in order, and always has a receive under way for the credits.
#pragma once

#include <deque>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/fd.h"
#include "transport/link.h"
#include "transport/tcp/arena.h"
#include "transport/tcp/socket_io.h"

namespace godwit::transport {

class TcpSender final : public LinkSender {
 public:
  // The sockets have been through the handshake; one per stream, in order.
  static Result<std::unique_ptr<LinkSender>> create(std::vector<Fd> sockets, Arena arena, TcpIo io);
  TcpSender(const TcpSender&) = delete;
  TcpSender& operator=(const TcpSender&) = delete;
  ~TcpSender() override;

  [[nodiscard]] const char* name() const override { return io_->name(); }
  [[nodiscard]] uint32_t streams() const override { return static_cast<uint32_t>(streams_.size()); }
  void set_deadline_ns(int64_t deadline_ns) override { deadline_ns_ = deadline_ns; }
  Result<Buffer> acquire(uint32_t stream) override;
  Result<void> submit(const Buffer& buffer, uint32_t size) override;
  Result<void> barrier(uint64_t token) override;
  [[nodiscard]] LinkCounters counters() const override { return counters_; }

 private:
  enum class Owner : uint8_t { kInvalid = 0, kLink, kCaller, kQueue };
  struct Slot {
    Owner owner = Owner::kLink;
    uint32_t held = 0;  // notifications that the kernel still owes for this memory
  };
  struct Stream {
    Fd socket;
    std::vector<Slot> slots;
    std::deque<std::pair<uint32_t, std::span<const std::byte>>> queue;  // tag, what is left of the frame
    uint64_t acquired = 0;                                              // batches, since the beginning
    uint64_t submitted = 0;
    uint64_t released = 0;    // by the receiver
    size_t credit_bytes = 0;  // of the credit frames that have arrived and are not yet complete
    bool sending = false;
    bool ended = false;  // the target closed its side
  };

  TcpSender(std::vector<Fd> sockets, Arena arena);
  Result<void> open(TcpIo io);
  // The error that ended the link, or ETIMEDOUT, which ends it.
  Result<void> check(const char* operation);
  std::unexpected<Error> end(Error error);
  Result<void> handle_all();
  // Handles what has completed; waits for something first, until the deadline, if `waiting`.
  Result<void> pump(bool waiting);
  Result<void> handle(const SocketIo::Completion& completion);
  Result<void> handle_sent(const SocketIo::Completion& completion);
  Result<void> handle_received(const SocketIo::Completion& completion);
  Result<void> take_credit(uint32_t stream, const FrameHeader& header);
  Result<void> send_next(uint32_t stream);
  Result<void> await_credits(uint32_t stream);
  std::optional<uint32_t> find_free_slot(const Stream& stream) const;
  [[nodiscard]] bool all_released() const;
  // The part of the control page that receives credits.
  [[nodiscard]] std::span<std::byte> credit_area(uint32_t stream) const;
  Result<void> close_in_order();

  Arena arena_;
  std::vector<Stream> streams_;
  std::unique_ptr<SocketIo> io_;  // destroyed before the sockets and the memory it uses
  std::vector<SocketIo::Completion> completions_;
  std::optional<Error> error_;
  LinkCounters counters_;
  int64_t deadline_ns_ = 0;
  bool closing_ = false;
};

}  // namespace godwit::transport
