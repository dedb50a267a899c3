// Socket addresses as bytes.
#pragma once

#include <sys/socket.h>

#include <cstring>
#include <string>

#include "base/result.h"

namespace godwit::runtime {

struct Address {
  sockaddr_storage storage{};
  socklen_t length = 0;
  [[nodiscard]] const sockaddr* get() const { return reinterpret_cast<const sockaddr*>(&storage); }
};

// Empty for a socket that is not bound (port 0 of an internet socket).
[[nodiscard]] Result<void> read_local_address(int socket, std::string& bytes);
// Empty for a socket that is not connected.
[[nodiscard]] Result<void> read_remote_address(int socket, std::string& bytes);
// Pure: an address of `family` with the right length, or an error.
[[nodiscard]] Result<Address> to_address(const std::string& bytes, uint32_t family);

}  // namespace godwit::runtime
