#include "engine/host/own_addresses.h"

#include <ifaddrs.h>
#include <net/if.h>
#include <netinet/in.h>
#include <netpacket/packet.h>
#include <sys/socket.h>

#include <cstring>
#include <memory>
#include <optional>

#include "runtime/network/address.h"

namespace godwit::engine {
namespace {

bool is_it(const sockaddr* own, const runtime::InterfaceAddress& address) {
  if (address.is_ipv6)
    return own->sa_family == AF_INET6 &&
           std::memcmp(&reinterpret_cast<const sockaddr_in6*>(own)->sin6_addr, address.bytes.data(), 16) == 0;
  return own->sa_family == AF_INET &&
         std::memcmp(&reinterpret_cast<const sockaddr_in*>(own)->sin_addr, address.bytes.data(), 4) == 0;
}

bool is_it(const sockaddr* own, const runtime::MacAddress& mac) {
  if (own->sa_family != AF_PACKET) return false;
  const auto* const link = reinterpret_cast<const sockaddr_ll*>(own);
  return link->sll_halen == mac.size() && std::memcmp(link->sll_addr, mac.data(), mac.size()) == 0;
}

}  // namespace

Result<void> check_not_of_host(const model::ContainerRecord& record) {
  GODWIT_ASSIGN(const runtime::InterfaceAddress address, runtime::parse_cidr(record.address()));
  std::optional<runtime::MacAddress> mac;
  if (!record.mac().empty()) {
    GODWIT_ASSIGN(mac, runtime::parse_mac(record.mac()));
  }
  ifaddrs* list = nullptr;
  if (::getifaddrs(&list) != 0) return fail("list", "the addresses of this host");
  const std::unique_ptr<ifaddrs, decltype(&::freeifaddrs)> owner(list, ::freeifaddrs);
  for (const ifaddrs* own = list; own != nullptr; own = own->ifa_next) {
    if (own->ifa_addr == nullptr) continue;
    if (is_it(own->ifa_addr, address))
      return refuse("take the address", record.address(),
                    std::string("this host has it, on ") + own->ifa_name);
    if (mac && is_it(own->ifa_addr, *mac))
      return refuse("take the MAC address", record.mac(),
                    std::string("this host has it, on ") + own->ifa_name);
  }
  return {};
}

}  // namespace godwit::engine
