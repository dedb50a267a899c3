#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

#include "base/socket_address.h"
#include "engine/protocol/peer.h"

namespace godwit::engine {

Result<Fd> connect_to_agent(const std::string& address, int64_t deadline_ns) {
  GODWIT_ASSIGN(const HostPort parsed, parse_host_port(address));
  GODWIT_ASSIGN(const SocketAddress place, parse_address(parsed.host, parsed.port));
  Fd socket(::socket(place.family(), SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!socket.valid()) return fail("make a socket for", address);
  const int on = 1;
  if (::setsockopt(socket.get(), IPPROTO_TCP, TCP_NODELAY, &on, sizeof on) != 0)
    return fail("set TCP_NODELAY on a connection to", address);
  // Unanswered data ends the connection after this long: a pulled cable is noticed within the cutover budget.
  const unsigned patience_ms = 5000;
  if (::setsockopt(socket.get(), IPPROTO_TCP, TCP_USER_TIMEOUT, &patience_ms, sizeof patience_ms) != 0)
    return fail("set TCP_USER_TIMEOUT on a connection to", address);
  if (auto connected = connect_until(socket.get(), place, deadline_ns); !connected)
    return fail("connect to the agent at", address, connected.error().code,
                connected.error().code == ETIMEDOUT
                    ? "is the host up, and godwitd listening there?"
                    : "is godwitd running there, and listening on this address?");
  return socket;
}

}  // namespace godwit::engine
