#include "transport/tcp/socket.h"

#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>

#include "base/socket_address.h"

namespace godwit::transport {
namespace {

constexpr int kBacklog = 64;

Result<void> set_option(int socket, int level, int option, int value, const char* name) {
  if (::setsockopt(socket, level, option, &value, sizeof value) != 0)
    return fail("set " + std::string(name) + " on", "a socket of the link");
  return {};
}

}  // namespace

Result<void> wait_for(int fd, short events, int64_t deadline_ns) {
  for (;;) {
    pollfd entry{.fd = fd, .events = events, .revents = 0};
    const int ready = ::poll(&entry, 1, left_ms(deadline_ns));
    if (ready > 0) return {};
    if (ready < 0 && errno != EINTR) return fail("wait for", "a socket of the link");
    if (has_passed(deadline_ns)) return fail("wait for", "a socket of the link", ETIMEDOUT);
  }
}

Result<Fd> listen_tcp(const std::string& address, uint16_t port) {
  GODWIT_ASSIGN(const SocketAddress place, parse_address(address, port));
  const std::string name = address + " port " + std::to_string(port);
  Fd socket(::socket(place.family(), SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!socket.valid()) return fail("make a socket for", name);
  GODWIT_TRY(set_option(socket.get(), SOL_SOCKET, SO_REUSEADDR, 1, "SO_REUSEADDR"));
  if (::bind(socket.get(), place.get(), place.size) != 0) return fail("bind", name);
  if (::listen(socket.get(), kBacklog) != 0) return fail("listen on", name);
  return socket;
}

Result<uint16_t> local_port(int socket) {
  SocketAddress address;
  if (::getsockname(socket, address.get(), &address.size) != 0)
    return fail("read the address of", "the listening socket");
  return port_of(address);
}

Result<Fd> connect_tcp(const std::string& address, uint16_t port, int64_t deadline_ns) {
  GODWIT_ASSIGN(const SocketAddress place, parse_address(address, port));
  const std::string name = address + " port " + std::to_string(port);
  Fd socket(::socket(place.family(), SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!socket.valid()) return fail("make a socket for", name);
  GODWIT_TRY(tune_stream(socket.get()));
  if (auto connected = connect_until(socket.get(), place, deadline_ns); !connected)
    return fail("connect to", name, connected.error().code,
                "does the target run, and can this host reach it?");
  GODWIT_TRY(set_blocking(socket.get()));
  return socket;
}

// SO_SNDBUF and SO_RCVBUF are left alone: setting them switches the kernel's own tuning (tcp_wmem, tcp_rmem)
// off.
Result<void> tune_stream(int socket) {
  GODWIT_TRY(set_option(socket, IPPROTO_TCP, TCP_NODELAY, 1, "TCP_NODELAY"));
  GODWIT_TRY(set_option(socket, IPPROTO_TCP, TCP_USER_TIMEOUT, kSilenceMsMax, "TCP_USER_TIMEOUT"));
  GODWIT_TRY(set_option(socket, SOL_SOCKET, SO_KEEPALIVE, 1, "SO_KEEPALIVE"));
  GODWIT_TRY(set_option(socket, IPPROTO_TCP, TCP_KEEPIDLE, 2, "TCP_KEEPIDLE"));
  GODWIT_TRY(set_option(socket, IPPROTO_TCP, TCP_KEEPINTVL, 1, "TCP_KEEPINTVL"));
  return set_option(socket, IPPROTO_TCP, TCP_KEEPCNT, 3, "TCP_KEEPCNT");
}

Result<void> set_blocking(int socket) {
  const int flags = ::fcntl(socket, F_GETFL);
  if (flags < 0 || ::fcntl(socket, F_SETFL, flags & ~O_NONBLOCK) != 0)
    return fail("set blocking mode on", "a socket of the link");
  return {};
}

Result<void> send_all(int socket, std::span<const std::byte> bytes, int64_t deadline_ns) {
  while (!bytes.empty()) {
    const ssize_t sent = ::send(socket, bytes.data(), bytes.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
    if (sent > 0) {
      bytes = bytes.subspan(static_cast<size_t>(sent));
    } else if (sent < 0 && errno == EAGAIN) {
      GODWIT_TRY(wait_for(socket, POLLOUT, deadline_ns));
    } else if (sent == 0 || errno != EINTR) {
      return fail("send to", "the peer of the link");
    }
  }
  return {};
}

Result<void> receive_all(int socket, std::span<std::byte> bytes, int64_t deadline_ns) {
  while (!bytes.empty()) {
    const ssize_t received = ::recv(socket, bytes.data(), bytes.size(), MSG_DONTWAIT);
    if (received > 0) {
      bytes = bytes.subspan(static_cast<size_t>(received));
    } else if (received == 0) {
      return fail("receive from", "the peer of the link", ECONNRESET, "it closed the connection");
    } else if (errno == EAGAIN) {
      GODWIT_TRY(wait_for(socket, POLLIN, deadline_ns));
    } else if (errno != EINTR) {
      return fail("receive from", "the peer of the link");
    }
  }
  return {};
}

}  // namespace godwit::transport
