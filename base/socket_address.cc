#include "base/socket_address.h"

#include <netdb.h>
#include <netinet/in.h>
#include <poll.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <climits>
#include <cstring>
#include <memory>

#include "base/clock.h"

namespace godwit {

Result<SocketAddress> parse_address(const std::string& address, uint16_t port) {
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_NUMERICHOST | AI_NUMERICSERV | AI_PASSIVE;
  addrinfo* found = nullptr;
  const int status = ::getaddrinfo(address.c_str(), std::to_string(port).c_str(), &hints, &found);
  if (status != 0) return refuse("read the address", address, ::gai_strerror(status));
  const std::unique_ptr<addrinfo, decltype(&::freeaddrinfo)> owner(found, ::freeaddrinfo);
  SocketAddress parsed{.storage = {}, .size = found->ai_addrlen};
  std::memcpy(&parsed.storage, found->ai_addr, found->ai_addrlen);
  return parsed;
}

std::string host_of(const sockaddr* address) {
  std::array<char, NI_MAXHOST> text{};
  const socklen_t size = address->sa_family == AF_INET6 ? sizeof(sockaddr_in6) : sizeof(sockaddr_in);
  if (::getnameinfo(address, size, text.data(), text.size(), nullptr, 0, NI_NUMERICHOST) != 0)
    return "an unknown address";
  return text.data();
}

uint16_t port_of(const SocketAddress& address) {
  if (address.family() == AF_INET6)
    return ntohs(reinterpret_cast<const sockaddr_in6&>(address.storage).sin6_port);
  return ntohs(reinterpret_cast<const sockaddr_in&>(address.storage).sin_port);
}

std::string host_and_port_of(const SocketAddress& address) {
  const std::string host = host_of(address.get());
  return (address.family() == AF_INET6 ? "[" + host + "]" : host) + ":" + std::to_string(port_of(address));
}

Result<HostPort> parse_host_port(const std::string& text) {
  const size_t colon = text.rfind(':');
  if (colon == std::string::npos || colon == 0)
    return refuse("read the address", text, "it must be ADDR:PORT or [ADDR6]:PORT");
  HostPort result;
  result.host = text.substr(0, colon);
  if (result.host.front() == '[' && result.host.back() == ']')
    result.host = result.host.substr(1, result.host.size() - 2);
  const char* const begin = text.data() + colon + 1;
  const char* const end = text.data() + text.size();
  const auto [rest, error] = std::from_chars(begin, end, result.port);
  if (error != std::errc() || rest != end)
    return refuse("read the address", text, "its port is not a number");
  return result;
}

Result<void> connect_until(int socket, const SocketAddress& address, int64_t deadline_ns) {
  const auto failed = [&](int code) { return fail("connect to", host_and_port_of(address), code); };
  if (::connect(socket, address.get(), address.size) == 0) return {};
  if (errno != EINPROGRESS && errno != EINTR) return failed(errno);
  for (;;) {
    int timeout_ms = -1;
    if (deadline_ns != 0) {
      const int64_t left_ns = deadline_ns - monotonic_ns();
      if (left_ns <= 0) return failed(ETIMEDOUT);
      timeout_ms = static_cast<int>(std::min<int64_t>(left_ns / 1'000'000 + 1, INT_MAX));
    }
    pollfd entry{.fd = socket, .events = POLLOUT, .revents = 0};
    const int ready = ::poll(&entry, 1, timeout_ms);
    if (ready > 0) break;
    if (ready < 0 && errno != EINTR) return failed(errno);
  }
  int error = 0;
  socklen_t size = sizeof error;
  if (::getsockopt(socket, SOL_SOCKET, SO_ERROR, &error, &size) != 0) return failed(errno);
  if (error != 0) return failed(error);
  return {};
}

}  // namespace godwit
