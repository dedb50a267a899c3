#include "runtime/process/descriptors/sockaddr.h"

#include <netinet/in.h>

namespace godwit::runtime {
namespace {

uint16_t port_of(const sockaddr_storage& storage) {
  // The port lies at the same place in both families.
  return reinterpret_cast<const sockaddr_in*>(&storage)->sin_port;
}

bool has_bound_address(const sockaddr_storage& storage) {
  if (port_of(storage) != 0) return true;
  if (storage.ss_family == AF_INET)
    return reinterpret_cast<const sockaddr_in*>(&storage)->sin_addr.s_addr != INADDR_ANY;
  return std::memcmp(&reinterpret_cast<const sockaddr_in6*>(&storage)->sin6_addr, &in6addr_any,
                     sizeof(in6_addr)) != 0;
}

}  // namespace

Result<void> read_local_address(int socket, std::string& bytes) {
  sockaddr_storage storage{};
  socklen_t length = sizeof storage;
  if (::getsockname(socket, reinterpret_cast<sockaddr*>(&storage), &length) != 0)
    return fail("ask the address of", "socket");
  bytes.clear();
  const bool internet = storage.ss_family == AF_INET || storage.ss_family == AF_INET6;
  if (!internet || has_bound_address(storage)) bytes.assign(reinterpret_cast<const char*>(&storage), length);
  return {};
}

Result<void> read_remote_address(int socket, std::string& bytes) {
  sockaddr_storage storage{};
  socklen_t length = sizeof storage;
  bytes.clear();
  if (::getpeername(socket, reinterpret_cast<sockaddr*>(&storage), &length) != 0) {
    if (errno == ENOTCONN) return {};
    return fail("ask the peer of", "socket");
  }
  bytes.assign(reinterpret_cast<const char*>(&storage), length);
  return {};
}

Result<Address> to_address(const std::string& bytes, uint32_t family) {
  const size_t expected = family == AF_INET    ? sizeof(sockaddr_in)
                          : family == AF_INET6 ? sizeof(sockaddr_in6)
                                               : 0;
  if (expected == 0 || bytes.size() != expected)
    return refuse("accept", "socket address", "its length is wrong");
  Address address;
  std::memcpy(&address.storage, bytes.data(), bytes.size());
  address.length = static_cast<socklen_t>(bytes.size());
  if (address.storage.ss_family != family) return refuse("accept", "socket address", "its family is wrong");
  return address;
}

}  // namespace godwit::runtime
