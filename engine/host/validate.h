// Checks of what users and peers name: each returns an error that says what a valid one looks like. Ids:
// base/identifier.h.
#pragma once

#include <string>

#include "base/result.h"
#include "engine/protocol/container.pb.h"

namespace godwit::engine {

// hostname(7): labels of letters, digits and inner hyphens, 63 characters in all (the kernel holds 64).
Result<void> validate_hostname(const std::string& hostname);
// An IPv4 or IPv6 address with a prefix length, and not the network's own or broadcast address.
Result<void> validate_cidr(const std::string& cidr);
// An address of the same family inside the network of `cidr`, and not the container's own.
Result<void> validate_gateway(const std::string& gateway, const std::string& cidr);
// A name that is only shown and compared (environment, group): printable, at most 128 characters.
Result<void> validate_label(const std::string& what, const std::string& label);

// All of these for what a record names; names become paths. Its bundle and limits are not looked at.
Result<void> validate_record(const model::ContainerRecord& record);

}  // namespace godwit::engine
