// Interfaces that were made inside a container's network namespace, by the container or by somebody else.
#pragma once

#include <string>
#include <vector>

#include "base/result.h"
#include "runtime/network/network.h"

namespace godwit::runtime {

// Names of all but the container's own interface and those that every new network namespace of this kernel
// has (lo; sit0, tunl0 and their like), if these are down. They are not made at a target, and parking does
// not close them. Makes a network namespace to compare with: about a millisecond.
[[nodiscard]] Result<std::vector<std::string>> foreign_interfaces(const Attachment& attachment);

}  // namespace godwit::runtime
