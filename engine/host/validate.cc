#include "engine/host/validate.h"

#include <algorithm>

#include "base/identifier.h"
#include "runtime/network/address.h"

namespace godwit::engine {
namespace {

constexpr size_t kHostnameCharactersMax = 63;
constexpr size_t kLabelCharactersMax = 128;

bool is_letter_or_digit(char character) {
  return (character >= 'a' && character <= 'z') || (character >= 'A' && character <= 'Z') ||
         (character >= '0' && character <= '9');
}

bool bit(const runtime::InterfaceAddress& address, size_t index) {
  return ((address.bytes[index / 8] >> (7 - index % 8)) & 1) != 0;
}

size_t bits_of(const runtime::InterfaceAddress& address) {
  return address.is_ipv6 ? 128 : 32;
}

// All bits behind the prefix have this value.
bool host_bits_are(const runtime::InterfaceAddress& address, bool value) {
  for (size_t index = address.prefix_bits; index < bits_of(address); ++index)
    if (bit(address, index) != value) return false;
  return true;
}

}  // namespace

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

Result<void> validate_cidr(const std::string& cidr) {
  const auto address = runtime::parse_cidr(cidr);
  if (!address || address->prefix_bits == 0)
    return refuse("accept the address", "'" + cidr + "'", "it must be like 10.7.0.5/24 or fd00::5/64");
  if (bits_of(*address) - address->prefix_bits < 2) return {};
  if (host_bits_are(*address, false))
    return refuse("accept the address", cidr, "it is the network's, not a host's");
  if (!address->is_ipv6 && host_bits_are(*address, true))
    return refuse("accept the address", cidr, "it is the broadcast address of its network");
  return {};
}

Result<void> validate_gateway(const std::string& gateway, const std::string& cidr) {
  const auto own = runtime::parse_cidr(cidr);
  const auto address = runtime::parse_cidr(gateway + "/32");
  if (!own || !address)
    return refuse("accept the gateway", "'" + gateway + "'", "it must be an address such as 10.7.0.1");
  bool inside = address->is_ipv6 == own->is_ipv6;
  for (size_t index = 0; inside && index < own->prefix_bits; ++index)
    inside = bit(*address, index) == bit(*own, index);
  if (!inside) return refuse("accept the gateway", gateway, "it lies outside of " + cidr);
  if (address->bytes == own->bytes)
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

Result<void> validate_record(const model::ContainerRecord& record) {
  GODWIT_TRY(check_identifier("id", record.id()));
  GODWIT_TRY(validate_hostname(record.hostname()));
  GODWIT_TRY(validate_cidr(record.address()));
  if (!record.gateway().empty()) GODWIT_TRY(validate_gateway(record.gateway(), record.address()));
  GODWIT_TRY(validate_label("environment", record.environment()));
  return validate_label("group", record.anti_affinity_group());
}

}  // namespace godwit::engine
