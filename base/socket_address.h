// Numeric addresses of hosts, IPv4 and IPv6, with their ports.
#pragma once

#include <sys/socket.h>

#include <cstdint>
#include <string>

#include "base/result.h"

namespace godwit {

struct SocketAddress {
  sockaddr_storage storage{};
  socklen_t size = sizeof(sockaddr_storage);

  [[nodiscard]] sockaddr* get() { return reinterpret_cast<sockaddr*>(&storage); }
  [[nodiscard]] const sockaddr* get() const { return reinterpret_cast<const sockaddr*>(&storage); }
  [[nodiscard]] int family() const { return storage.ss_family; }
};

// Names are not looked up: a resolver may block for longer than any deadline.
Result<SocketAddress> parse_address(const std::string& address, uint16_t port);
// "10.0.0.2"; "an unknown address" where there is none.
std::string host_of(const sockaddr* address);
uint16_t port_of(const SocketAddress& address);
// "10.0.0.2:7100", "[fd00::2]:7100".
std::string host_and_port_of(const SocketAddress& address);

// Splits "ADDR:PORT" or "[ADDR6]:PORT".
struct HostPort {
  std::string host;
  uint16_t port = 0;
};
Result<HostPort> parse_host_port(const std::string& text);

// connect(2) of a socket that does not block, bounded by `deadline_ns` (monotonic; 0: none): ETIMEDOUT.
Result<void> connect_until(int socket, const SocketAddress& address, int64_t deadline_ns);

}  // namespace godwit
