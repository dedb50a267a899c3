// A Link over TCP: one connection per stream, by io_uring with registered files and buffers, or by plain
// socket calls where the host forbids io_uring. The protocol is in transport/tcp/frame.h.
//
//   target                                             source
//   listener = TcpLinkListener::listen("10.0.0.2")
//   (port and token go over the control connection) -> link = connect_tcp_link("10.0.0.2", port, token, ...)
//   receiver = listener.accept(deadline)
//
// Sockets belong to the network namespace of the thread that calls listen() or connect_tcp_link(). Deadlines
// are moments of base/clock.h monotonic_ns(); 0 means none.
//
// The end of a link:
//  * The sender's destructor closes it in order: what was submitted is delivered, waiting at most
//    kCloseWaitMs, then receive() says "nothing". If an error has ended the link before, it is just cut.
//  * A connection that ends otherwise, a silent peer (kSilenceMsMax in transport/tcp/socket.h), a frame that
//    is malformed (EPROTO) and a deadline (ETIMEDOUT) end the whole link, at both ends.
//  * Destroying the receiver cuts the link. No thread may be inside one of its calls then: cancel() first.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "base/fd.h"
#include "base/result.h"
#include "transport/link.h"

namespace godwit::transport {

inline constexpr int kCloseWaitMs = 1000;

enum class TcpIo : uint8_t {
  kAuto,             // io_uring if the host allows it, else sockets
  kIoUring,          // or an error that says what to set
  kIoUringZeroCopy,  // the same, and SEND_ZC at the sender; never chosen by kAuto
  kSockets,
};

// Nothing if this process may use io_uring; else why not, and what to set. For doctors and for kIoUring.
Result<void> probe_io_uring();

class TcpHandshake;

// The target's end of a link that does not exist yet. Threads: one.
class TcpLinkListener {
 public:
  TcpLinkListener(TcpLinkListener&& other) noexcept;
  TcpLinkListener& operator=(TcpLinkListener&&) = delete;
  TcpLinkListener(const TcpLinkListener&) = delete;
  TcpLinkListener& operator=(const TcpLinkListener&) = delete;
  ~TcpLinkListener();
  // `address` is a numeric IPv4 or IPv6 address of this host; port 0 lets the kernel choose.
  static Result<TcpLinkListener> listen(const std::string& address, uint16_t port = 0,
                                        TcpIo io = TcpIo::kAuto);

  [[nodiscard]] uint16_t port() const { return port_; }
  // 16 random bytes, which the source needs; keep them from others.
  [[nodiscard]] const std::string& token() const { return token_; }
  // For poll(2): readable when try_accept() has something to do.
  [[nodiscard]] int fd() const;
  // The link, once all streams of one source are connected; null before. Does not wait. To be called when
  // fd() is readable, and a few times a second, since that is when slow strangers are dropped.
  Result<std::unique_ptr<LinkReceiver>> try_accept();
  // Waits until all streams of one source are connected. Connections that do not say the token, say it slowly
  // or ask for the impossible are dropped and do not matter. Options are the source's, within the bounds of
  // link.h.
  Result<std::unique_ptr<LinkReceiver>> accept(int64_t deadline_ns);

 private:
  TcpLinkListener(Fd socket, uint16_t port, std::string token, TcpIo io,
                  std::unique_ptr<TcpHandshake> handshake);

  Fd socket_;
  uint16_t port_;
  std::string token_;
  TcpIo io_;
  std::unique_ptr<TcpHandshake> handshake_;
};

// Returns when the target has accepted every stream. EINVAL for options or a token that cannot be;
// ECONNREFUSED if the target refused, with its reason. No deadline is set on the link itself.
Result<std::unique_ptr<LinkSender>> connect_tcp_link(const std::string& address, uint16_t port,
                                                     std::string_view token, const LinkOptions& options,
                                                     int64_t deadline_ns, TcpIo io = TcpIo::kAuto);

}  // namespace godwit::transport
