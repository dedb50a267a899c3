#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>

#include <charconv>
#include <memory>

#include "base/clock.h"
#include "engine/protocol/peer.h"

namespace godwit::engine {
namespace {

Result<void> finish_connect(int socket, const std::string& address, int64_t deadline_ns) {
  pollfd entry{.fd = socket, .events = POLLOUT, .revents = 0};
  const int64_t left_ns = deadline_ns - monotonic_ns();
  const int ready = ::poll(&entry, 1, static_cast<int>(std::max<int64_t>(left_ns / 1'000'000, 0)));
  if (ready < 0) return fail("connect to the agent at", address);
  if (ready == 0)
    return fail("connect to the agent at", address, ETIMEDOUT,
                "is the host up, and godwitd listening there?");
  int error = 0;
  socklen_t size = sizeof error;
  if (::getsockopt(socket, SOL_SOCKET, SO_ERROR, &error, &size) != 0 || error != 0)
    return fail("connect to the agent at", address, error != 0 ? error : errno,
                "is godwitd running there, and listening on this address?");
  return {};
}

}  // namespace

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

Result<Fd> connect_to_agent(const std::string& address, int64_t deadline_ns) {
  GODWIT_ASSIGN(const HostPort place, parse_host_port(address));
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_NUMERICHOST | AI_NUMERICSERV;
  addrinfo* found = nullptr;
  const int status = ::getaddrinfo(place.host.c_str(), std::to_string(place.port).c_str(), &hints, &found);
  if (status != 0) return refuse("read the address", address, ::gai_strerror(status));
  const std::unique_ptr<addrinfo, decltype(&::freeaddrinfo)> owner(found, ::freeaddrinfo);
  Fd socket(::socket(found->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!socket.valid()) return fail("make a socket for", address);
  const int on = 1;
  if (::setsockopt(socket.get(), IPPROTO_TCP, TCP_NODELAY, &on, sizeof on) != 0)
    return fail("set TCP_NODELAY on a connection to", address);
  // Unanswered data ends the connection after this long: a pulled cable is noticed within the cutover budget.
  const unsigned patience_ms = 5000;
  if (::setsockopt(socket.get(), IPPROTO_TCP, TCP_USER_TIMEOUT, &patience_ms, sizeof patience_ms) != 0)
    return fail("set TCP_USER_TIMEOUT on a connection to", address);
  if (::connect(socket.get(), found->ai_addr, found->ai_addrlen) != 0 && errno != EINPROGRESS)
    return fail("connect to the agent at", address);
  GODWIT_TRY(finish_connect(socket.get(), address, deadline_ns));
  return socket;
}

}  // namespace godwit::engine
