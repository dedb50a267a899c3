#include "transport/tcp/tcp_handshake.h"

#include <sys/epoll.h>
#include <sys/socket.h>

#include <utility>

#include "base/clock.h"
#include "transport/tcp/socket.h"

namespace godwit::transport {
namespace {

constexpr size_t kPendingMax = 64;  // connections that have not said hello yet; the oldest makes room
constexpr int64_t kHelloWaitNs = 2'000'000'000;
constexpr uint64_t kListener = 0;  // not a connection's number

}  // namespace

void send_refusal(int socket, RefusalReason reason) {
  std::array<std::byte, sizeof(FrameHeader)> frame;
  write_frame(frame, FrameType::kRefused, 0, static_cast<uint64_t>(reason));
  // The socket buffer of a fresh connection takes 32 bytes.
  static_cast<void>(::send(socket, frame.data(), frame.size(), MSG_DONTWAIT | MSG_NOSIGNAL));
}

Result<TcpHandshake> TcpHandshake::create(int listener, const LinkToken& token) {
  TcpHandshake handshake(listener, token);
  handshake.epoll_ = Fd(::epoll_create1(EPOLL_CLOEXEC));
  if (!handshake.epoll_.valid()) return fail("make an epoll instance for", "the link's listener");
  GODWIT_TRY(handshake.watch(listener, kListener));
  return handshake;
}

Result<void> TcpHandshake::watch(int socket, uint64_t id) {
  epoll_event event{.events = EPOLLIN, .data = {.u64 = id}};
  if (::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, socket, &event) != 0)
    return fail("watch", "a socket of the link's listener");
  return {};
}

Result<bool> TcpHandshake::step() {
  std::array<epoll_event, kPendingMax + 1> events{};
  const int count = ::epoll_wait(epoll_.get(), events.data(), events.size(), 0);
  if (count < 0 && errno != EINTR) return fail("wait for", "the source's end of the link");
  for (int i = 0; i < count; ++i) {
    if (events[i].data.u64 == kListener) {
      GODWIT_TRY(accept_one());
    } else {
      read_some(events[i].data.u64);
    }
  }
  std::erase_if(pending_, [](const auto& each) { return has_passed(each.second.until_ns); });
  return missing_ == 0;
}

Result<std::vector<Fd>> TcpHandshake::take_sockets() {
  for (const Fd& socket : sockets_)
    if (::epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, socket.get(), nullptr) != 0)
      return fail("stop watching", "a socket of the link's listener");
  missing_ = 1;
  return std::exchange(sockets_, {});
}

Result<void> TcpHandshake::accept_one() {
  Fd socket(::accept4(listener_, nullptr, nullptr, SOCK_CLOEXEC));
  if (!socket.valid()) {
    // accept(2): errors of the new connection itself are reported here, and say nothing about the listener.
    const bool fatal = errno == EBADF || errno == EINVAL || errno == ENOTSOCK || errno == EMFILE ||
                       errno == ENFILE || errno == ENOBUFS || errno == ENOMEM;
    if (fatal) return fail("accept a connection on", "the link's listener");
    return {};
  }
  if (!tune_stream(socket.get())) return {};
  if (pending_.size() == kPendingMax) pending_.erase(pending_.begin());
  const uint64_t id = ++accepted_;
  GODWIT_TRY(watch(socket.get(), id));
  Pending& pending = pending_[id];
  pending.socket = std::move(socket);
  pending.until_ns = monotonic_ns() + kHelloWaitNs;
  return {};
}

void TcpHandshake::read_some(uint64_t id) {
  const auto found = pending_.find(id);
  if (found == pending_.end()) return;  // it has made room, or is a stream of the link already
  Pending& pending = found->second;
  const ssize_t received = ::recv(pending.socket.get(), pending.bytes.data() + pending.filled,
                                  pending.bytes.size() - pending.filled, MSG_DONTWAIT);
  if (received < 0 && (errno == EAGAIN || errno == EINTR)) return;
  if (received > 0) pending.filled += static_cast<size_t>(received);
  if (received > 0 && pending.filled < pending.bytes.size()) return;
  if (pending.filled == pending.bytes.size())
    if (const auto hello = read_hello(pending.bytes, token_)) greet(std::move(pending.socket), *hello);
  pending_.erase(found);
}

void TcpHandshake::greet(Fd socket, const Hello& hello) {
  if (const auto fault = find_fault(hello)) return send_refusal(socket.get(), *fault);
  if (sockets_.empty()) {
    options_ = {.streams = hello.streams,
                .buffer_bytes = hello.buffer_bytes,
                .buffers_per_stream = hello.buffers_per_stream};
    sockets_.resize(hello.streams);
    missing_ = hello.streams;
  }
  const bool differs = hello.streams != options_.streams || hello.buffer_bytes != options_.buffer_bytes ||
                       hello.buffers_per_stream != options_.buffers_per_stream;
  if (differs || sockets_[hello.stream].valid())
    return send_refusal(socket.get(), differs ? RefusalReason::kOptions : RefusalReason::kStreamTaken);
  sockets_[hello.stream] = std::move(socket);
  --missing_;
}

}  // namespace godwit::transport
