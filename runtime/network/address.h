// Addresses as users write them, parsed strictly, and MAC addresses derived from them.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>

#include "base/result.h"

namespace godwit::runtime {

using MacAddress = std::array<uint8_t, 6>;

struct InterfaceAddress {
  bool is_ipv6 = false;
  std::array<uint8_t, 16> bytes{};  // network order; an IPv4 address fills the first four
  unsigned prefix_bits = 0;
};

// "10.7.0.5/24", "fd00::5/64". The prefix length is required.
[[nodiscard]] Result<InterfaceAddress> parse_cidr(const std::string& text);
// "02:11:22:33:44:55"; must be a unicast address and not all zero.
[[nodiscard]] Result<MacAddress> parse_mac(const std::string& text);
[[nodiscard]] std::string format_mac(const MacAddress& mac);
// A locally administered unicast MAC, the same for the same address on every host.
[[nodiscard]] MacAddress derive_mac(const InterfaceAddress& address);

}  // namespace godwit::runtime
