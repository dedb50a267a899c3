#include "runtime/network/address.h"

#include <arpa/inet.h>
#include <fmt/format.h>

#include <algorithm>
#include <charconv>

namespace godwit::runtime {
namespace {

int hex_digit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

}  // namespace

Result<InterfaceAddress> parse_cidr(const std::string& text) {
  const size_t slash = text.find('/');
  if (slash == std::string::npos)
    return refuse("read the address", text, "expected ADDRESS/PREFIX, such as 10.7.0.5/24");
  const std::string host = text.substr(0, slash);
  InterfaceAddress address;
  address.is_ipv6 = host.find(':') != std::string::npos;
  if (::inet_pton(address.is_ipv6 ? AF_INET6 : AF_INET, host.c_str(), address.bytes.data()) != 1)
    return refuse("read the address", text, "not an IPv4 or IPv6 address");
  const char* const begin = text.data() + slash + 1;
  const char* const end = text.data() + text.size();
  const auto [rest, error] = std::from_chars(begin, end, address.prefix_bits);
  if (error != std::errc{} || rest != end || address.prefix_bits > (address.is_ipv6 ? 128U : 32U))
    return refuse("read the address", text, "bad prefix length");
  return address;
}

Result<MacAddress> parse_mac(const std::string& text) {
  MacAddress mac{};
  if (text.size() != 17)
    return refuse("read the MAC address", text, "expected six bytes as 02:11:22:33:44:55");
  for (size_t i = 0; i < mac.size(); ++i) {
    const int high = hex_digit(text[i * 3]);
    const int low = hex_digit(text[i * 3 + 1]);
    if (high < 0 || low < 0 || (i < 5 && text[i * 3 + 2] != ':'))
      return refuse("read the MAC address", text, "expected six bytes as 02:11:22:33:44:55");
    mac[i] = static_cast<uint8_t>(high * 16 + low);
  }
  if ((mac[0] & 1) != 0 || std::ranges::all_of(mac, [](uint8_t byte) { return byte == 0; }))
    return refuse("read the MAC address", text, "not a unicast address");
  return mac;
}

std::string format_mac(const MacAddress& mac) {
  return fmt::format("{:02x}:{:02x}:{:02x}:{:02x}:{:02x}:{:02x}", mac[0], mac[1], mac[2], mac[3], mac[4],
                     mac[5]);
}

MacAddress derive_mac(const InterfaceAddress& address) {
  if (!address.is_ipv6)
    return {0x02, 0x67, address.bytes[0], address.bytes[1], address.bytes[2], address.bytes[3]};
  // FNV-1a: stable over versions and machines, which is all that is asked of it.
  uint64_t hash = 14695981039346656037ULL;
  for (const uint8_t byte : address.bytes) hash = (hash ^ byte) * 1099511628211ULL;
  hash ^= hash >> 40;
  return {0x06,
          static_cast<uint8_t>(hash >> 32),
          static_cast<uint8_t>(hash >> 24),
          static_cast<uint8_t>(hash >> 16),
          static_cast<uint8_t>(hash >> 8),
          static_cast<uint8_t>(hash)};
}

}  // namespace godwit::runtime
