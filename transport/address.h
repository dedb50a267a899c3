// Numeric addresses of hosts, IPv4 and IPv6.
#pragma once

#include <sys/socket.h>

#include <cstdint>
#include <string>

#include "base/result.h"

namespace godwit::transport {

struct SocketAddress {
  sockaddr_storage storage{};
  socklen_t size = 0;

  [[nodiscard]] sockaddr* get() { return reinterpret_cast<sockaddr*>(&storage); }
  [[nodiscard]] const sockaddr* get() const { return reinterpret_cast<const sockaddr*>(&storage); }
  [[nodiscard]] int family() const { return storage.ss_family; }
};

// Names are not looked up: a resolver may block for longer than any deadline.
Result<SocketAddress> parse_address(const std::string& address, uint16_t port);
// "10.0.0.2"; "an unknown address" where there is none.
std::string host_of(const sockaddr* address);

}  // namespace godwit::transport
