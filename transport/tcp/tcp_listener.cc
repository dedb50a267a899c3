// The target's side of the handshake. Everybody who can reach the port may connect, so a connection gets
// nothing but 64 bytes of memory and kHelloWaitNs until it has said the token.
#include <poll.h>
#include <sys/random.h>
#include <sys/socket.h>

#include <algorithm>
#include <cstring>
#include <list>
#include <optional>

#include "base/clock.h"
#include "transport/tcp/frame.h"
#include "transport/tcp/socket.h"
#include "transport/tcp/tcp_link.h"
#include "transport/tcp/tcp_receiver.h"

namespace godwit::transport {
namespace {

constexpr size_t kPendingMax = 64;  // connections that have not said hello yet; the oldest makes room
constexpr int64_t kHelloWaitNs = 2'000'000'000;

struct Pending {
  Fd socket;
  int64_t until_ns = 0;
  size_t filled = 0;
  std::array<std::byte, sizeof(Hello)> bytes{};
};

void send_refusal(int socket, RefusalReason reason) {
  std::array<std::byte, sizeof(FrameHeader)> frame;
  write_frame(frame, FrameType::kRefused, 0, static_cast<uint64_t>(reason));
  // The socket buffer of a fresh connection takes 32 bytes; a peer that is gone already needs no answer.
  static_cast<void>(::send(socket, frame.data(), frame.size(), MSG_DONTWAIT | MSG_NOSIGNAL));
}

class Handshake {
 public:
  Handshake(int listener, const LinkToken& token) : listener_(listener), token_(token) {}

  // Until all streams are there.
  Result<void> run(int64_t deadline_ns);
  [[nodiscard]] const LinkOptions& options() const { return options_; }
  std::vector<Fd> take_sockets() { return std::move(sockets_); }

 private:
  Result<void> accept_one();
  // False: the connection is not pending any more.
  Result<bool> read_some(Pending& pending);
  Result<void> greet(Fd socket, const Hello& hello);
  [[nodiscard]] int64_t next_moment(int64_t deadline_ns) const;

  int listener_;
  LinkToken token_;
  std::list<Pending> pending_;
  LinkOptions options_;
  std::vector<Fd> sockets_;  // by stream; empty before the first hello
  uint32_t missing_ = 1;
};

int64_t Handshake::next_moment(int64_t deadline_ns) const {
  int64_t moment = deadline_ns;
  for (const Pending& pending : pending_)
    if (moment == 0 || pending.until_ns < moment) moment = pending.until_ns;
  return moment;
}

Result<void> Handshake::run(int64_t deadline_ns) {
  while (missing_ > 0) {
    if (has_passed(deadline_ns))
      return fail("wait for", "the source's end of the link", ETIMEDOUT, "it did not connect in time");
    std::vector<pollfd> entries{{.fd = listener_, .events = POLLIN, .revents = 0}};
    for (const Pending& pending : pending_)
      entries.push_back({.fd = pending.socket.get(), .events = POLLIN, .revents = 0});
    if (::poll(entries.data(), entries.size(), left_ms(next_moment(deadline_ns))) < 0 && errno != EINTR)
      return fail("wait for", "the source's end of the link");
    size_t next = 1;
    for (auto i = pending_.begin(); i != pending_.end();) {
      bool keep = true;
      if (entries[next++].revents != 0) {
        GODWIT_ASSIGN(keep, read_some(*i));
      }
      if (keep && has_passed(i->until_ns)) keep = false;
      i = keep ? std::next(i) : pending_.erase(i);
    }
    if (entries.front().revents != 0) GODWIT_TRY(accept_one());
  }
  return {};
}

Result<void> Handshake::accept_one() {
  Fd socket(::accept4(listener_, nullptr, nullptr, SOCK_CLOEXEC));
  if (!socket.valid()) {
    // accept(2): errors of the new connection itself are reported here, and say nothing about the listener.
    const bool fatal = errno == EBADF || errno == EINVAL || errno == ENOTSOCK || errno == EMFILE ||
                       errno == ENFILE || errno == ENOBUFS || errno == ENOMEM;
    if (fatal) return fail("accept a connection on", "the link's listener");
    return {};
  }
  if (!tune_stream(socket.get())) return {};
  if (pending_.size() == kPendingMax) pending_.pop_front();
  pending_.emplace_back();
  pending_.back().socket = std::move(socket);
  pending_.back().until_ns = monotonic_ns() + kHelloWaitNs;
  return {};
}

Result<bool> Handshake::read_some(Pending& pending) {
  const ssize_t received = ::recv(pending.socket.get(), pending.bytes.data() + pending.filled,
                                  pending.bytes.size() - pending.filled, MSG_DONTWAIT);
  if (received < 0 && (errno == EAGAIN || errno == EINTR)) return true;
  if (received <= 0) return false;
  pending.filled += static_cast<size_t>(received);
  if (pending.filled < pending.bytes.size()) return true;
  if (const auto hello = read_hello(pending.bytes, token_))
    GODWIT_TRY(greet(std::move(pending.socket), *hello));
  return false;
}

Result<void> Handshake::greet(Fd socket, const Hello& hello) {
  if (const auto fault = find_fault(hello)) {
    send_refusal(socket.get(), *fault);
    return {};
  }
  if (sockets_.empty()) {
    options_ = {.streams = hello.streams,
                .buffer_bytes = hello.buffer_bytes,
                .buffers_per_stream = hello.buffers_per_stream};
    sockets_.resize(hello.streams);
    missing_ = hello.streams;
  }
  const bool differs = hello.streams != options_.streams || hello.buffer_bytes != options_.buffer_bytes ||
                       hello.buffers_per_stream != options_.buffers_per_stream;
  if (differs || sockets_[hello.stream].valid()) {
    send_refusal(socket.get(), differs ? RefusalReason::kOptions : RefusalReason::kStreamTaken);
    return {};
  }
  sockets_[hello.stream] = std::move(socket);
  --missing_;
  return {};
}

}  // namespace

Result<TcpLinkListener> TcpLinkListener::listen(const std::string& address, uint16_t port, TcpIo io) {
  GODWIT_ASSIGN(Fd socket, listen_tcp(address, port));
  GODWIT_ASSIGN(const uint16_t bound_port, local_port(socket.get()));
  std::string token(kTokenBytes, '\0');
  if (::getrandom(token.data(), token.size(), 0) != static_cast<ssize_t>(token.size()))
    return fail("get random bytes for", "the token of a link");
  return TcpLinkListener(std::move(socket), bound_port, std::move(token), io);
}

Result<std::unique_ptr<LinkReceiver>> TcpLinkListener::accept(int64_t deadline_ns) {
  LinkToken token;
  std::memcpy(token.data(), token_.data(), token.size());
  Handshake handshake(socket_.get(), token);
  GODWIT_TRY(handshake.run(deadline_ns));
  std::vector<Fd> sockets = handshake.take_sockets();
  std::vector<Fd> refusable;
  for (const Fd& socket : sockets) {
    GODWIT_ASSIGN(Fd copy, duplicate(socket.get()));
    refusable.push_back(std::move(copy));
  }
  auto receiver = TcpReceiver::create(std::move(sockets), handshake.options(), io_);
  if (!receiver) {
    for (const Fd& socket : refusable) send_refusal(socket.get(), RefusalReason::kNoMemory);
    return std::unexpected(receiver.error());
  }
  GODWIT_TRY((*receiver)->welcome(deadline_ns));
  return std::unique_ptr<LinkReceiver>(std::move(*receiver));
}

}  // namespace godwit::transport
