// SocketIo by send(2), recv(2) and poll(2), for hosts that forbid io_uring.
#include <poll.h>
#include <sys/socket.h>

#include "transport/tcp/socket.h"
#include "transport/tcp/socket_io.h"

namespace godwit::transport {
namespace {

class PlainIo final : public SocketIo {
 public:
  explicit PlainIo(std::span<const int> sockets) {
    for (const int fd : sockets) channels_.push_back({.fd = fd, .sending = {}, .receiving = {}});
    entries_.resize(channels_.size());
  }

  [[nodiscard]] const char* name() const override { return "tcp+sockets"; }

  Result<void> start_send(uint32_t socket, uint32_t tag, std::span<const std::byte> bytes) override {
    Channel& channel = channels_[socket];
    channel.sending = bytes;
    channel.tag = tag;
    channel.sent = 0;
    advance_send(channel);
    return {};
  }

  Result<void> start_receive(uint32_t socket, std::span<std::byte> bytes) override {
    channels_[socket].receiving = bytes;
    return {};
  }

  Result<void> reap_ready(std::vector<Completion>& completions) override {
    completions.clear();
    for (uint32_t i = 0; i < channels_.size(); ++i) {
      Channel& channel = channels_[i];
      if (channel.sending.data() != nullptr) {
        advance_send(channel);
        report_send(i, completions);
      }
      if (!channel.receiving.empty()) receive(i, completions);
    }
    return {};
  }

  Result<void> reap(int64_t deadline_ns, std::vector<Completion>& completions) override {
    for (;;) {
      GODWIT_TRY(reap_ready(completions));
      if (!completions.empty() || has_passed(deadline_ns)) return {};
      for (size_t i = 0; i < channels_.size(); ++i) {
        const bool sending = channels_[i].sending.data() != nullptr;
        const bool receiving = !channels_[i].receiving.empty();
        entries_[i] = {.fd = sending || receiving ? channels_[i].fd : -1,
                       .events = static_cast<short>((sending ? POLLOUT : 0) | (receiving ? POLLIN : 0)),
                       .revents = 0};
      }
      if (::poll(entries_.data(), entries_.size(), left_ms(deadline_ns)) < 0 && errno != EINTR)
        return fail("wait for", "the sockets of the link");
    }
  }

 private:
  struct Channel {
    int fd = -1;
    std::span<const std::byte> sending;  // no data pointer: nothing under way
    std::span<std::byte> receiving;
    uint32_t tag = 0;
    size_t sent = 0;
    int error = 0;
  };

  static void advance_send(Channel& channel) {
    while (channel.error == 0 && channel.sent < channel.sending.size()) {
      const std::span<const std::byte> rest = channel.sending.subspan(channel.sent);
      const ssize_t sent = ::send(channel.fd, rest.data(), rest.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
      if (sent >= 0)
        channel.sent += static_cast<size_t>(sent);
      else if (errno == EAGAIN)
        return;
      else if (errno != EINTR)
        channel.error = errno;
    }
  }

  void report_send(uint32_t socket, std::vector<Completion>& completions) {
    Channel& channel = channels_[socket];
    if (channel.error == 0 && channel.sent < channel.sending.size()) return;
    completions.push_back(
        {.event = Event::kSent,
         .socket = socket,
         .tag = channel.tag,
         .result = channel.error != 0 ? -channel.error : static_cast<int32_t>(channel.sent)});
    channel.sending = {};
  }

  void receive(uint32_t socket, std::vector<Completion>& completions) {
    Channel& channel = channels_[socket];
    const ssize_t received =
        ::recv(channel.fd, channel.receiving.data(), channel.receiving.size(), MSG_DONTWAIT);
    if (received < 0 && (errno == EAGAIN || errno == EINTR)) return;
    completions.push_back({.event = Event::kReceived,
                           .socket = socket,
                           .result = received < 0 ? -errno : static_cast<int32_t>(received)});
    channel.receiving = {};
  }

  std::vector<Channel> channels_;
  std::vector<pollfd> entries_;
};

}  // namespace

std::unique_ptr<SocketIo> make_plain_io(std::span<const int> sockets) {
  return std::make_unique<PlainIo>(sockets);
}

Result<std::unique_ptr<SocketIo>> make_socket_io(TcpIo io, std::span<const int> sockets,
                                                 std::span<std::byte> memory) {
  if (io == TcpIo::kSockets) return make_plain_io(sockets);
  auto ring = make_uring_io(sockets, memory, io == TcpIo::kIoUringZeroCopy);
  if (!ring && io == TcpIo::kAuto) return make_plain_io(sockets);
  return ring;
}

}  // namespace godwit::transport
