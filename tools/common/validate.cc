#include "tools/common/validate.h"

#include <arpa/inet.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cstdint>
#include <span>

namespace godwit::tools {
namespace {

constexpr size_t kIdCharactersMax = 64;
constexpr size_t kHostnameCharactersMax = 63;
constexpr size_t kLabelCharactersMax = 128;

bool is_letter_or_digit(char character) {
  return (character >= 'a' && character <= 'z') || (character >= 'A' && character <= 'Z') ||
         (character >= '0' && character <= '9');
}

// An address in network byte order; 4 or 16 bytes of it count.
struct Address {
  std::array<uint8_t, 16> bytes{};
  size_t size = 0;
  [[nodiscard]] std::span<const uint8_t> span() const { return {bytes.data(), size}; }
};

bool parse_address(const std::string& text, Address& address) {
  address.size = text.find(':') == std::string::npos ? 4 : 16;
  return ::inet_pton(address.size == 4 ? AF_INET : AF_INET6, text.c_str(), address.bytes.data()) == 1;
}

struct Network {
  Address address;
  unsigned prefix = 0;
};

bool parse_cidr(const std::string& text, Network& network) {
  const size_t slash = text.find('/');
  if (slash == std::string::npos || !parse_address(text.substr(0, slash), network.address)) return false;
  const char* const end = text.data() + text.size();
  const auto [rest, error] = std::from_chars(text.data() + slash + 1, end, network.prefix);
  return error == std::errc() && rest == end && network.prefix >= 1 &&
         network.prefix <= network.address.size * 8;
}

bool bit(std::span<const uint8_t> bytes, size_t index) {
  return ((bytes[index / 8] >> (7 - index % 8)) & 1) != 0;
}

// All bits behind the prefix have this value.
bool host_bits_are(const Network& network, bool value) {
  for (size_t index = network.prefix; index < network.address.size * 8; ++index)
    if (bit(network.address.span(), index) != value) return false;
  return true;
}

}  // namespace

Result<void> validate_id(const std::string& id) {
  const bool fits =
      !id.empty() && id.size() <= kIdCharactersMax && is_letter_or_digit(id.front()) &&
      std::ranges::all_of(id, [](char character) {
        return is_letter_or_digit(character) || character == '_' || character == '.' || character == '-';
      });
  if (fits) return {};
  return refuse("accept the id", "'" + id + "'",
                "it must be 1 to 64 letters, digits, '_', '.' or '-', and begin with a letter or digit");
}

Result<void> validate_hostname(const std::string& hostname) {
  bool fits = !hostname.empty() && hostname.size() <= kHostnameCharactersMax;
  char before = '.';
  for (const char character : hostname) {
    const bool inner = character == '-' || character == '.';
    fits = fits &&
           (is_letter_or_digit(character) || (inner && before != '.' && (character != '.' || before != '-')));
    before = character;
  }
  if (fits && is_letter_or_digit(before)) return {};
  return refuse(
      "accept the hostname", "'" + hostname + "'",
      "it must be letters, digits and inner hyphens in parts joined by dots, 63 characters at most");
}

Result<void> validate_cidr(const std::string& address) {
  Network network;
  if (!parse_cidr(address, network))
    return refuse("accept the address", "'" + address + "'", "it must be like 10.7.0.5/24 or fd00::5/64");
  const size_t host_bits = network.address.size * 8 - network.prefix;
  if (host_bits < 2) return {};
  if (host_bits_are(network, false))
    return refuse("accept the address", address, "it is the network's, not a host's");
  if (network.address.size == 4 && host_bits_are(network, true))
    return refuse("accept the address", address, "it is the broadcast address of its network");
  return {};
}

Result<void> validate_gateway(const std::string& gateway, const std::string& cidr) {
  Network network;
  Address address;
  if (!parse_cidr(cidr, network) || !parse_address(gateway, address))
    return refuse("accept the gateway", "'" + gateway + "'", "it must be an address such as 10.7.0.1");
  bool inside = address.size == network.address.size;
  for (size_t index = 0; inside && index < network.prefix; ++index)
    inside = bit(address.span(), index) == bit(network.address.span(), index);
  if (!inside) return refuse("accept the gateway", gateway, "it lies outside of " + cidr);
  if (address.bytes == network.address.bytes)
    return refuse("accept the gateway", gateway, "it is the container's own address");
  return {};
}

Result<void> validate_label(const std::string& what, const std::string& label) {
  const bool fits = label.size() <= kLabelCharactersMax && std::ranges::all_of(label, [](char character) {
                      return character >= ' ' && character != 127;
                    });
  if (fits) return {};
  return refuse("accept the " + what, "'" + label.substr(0, kLabelCharactersMax) + "'",
                "it must be printable and at most 128 characters");
}

}  // namespace godwit::tools
