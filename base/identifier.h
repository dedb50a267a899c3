// Names that become file names, cgroups and network namespaces: of containers, hosts and sessions.
#pragma once

#include <string>

#include "base/result.h"

namespace godwit {

// [A-Za-z0-9][A-Za-z0-9_.-]{0,63}. `what` it is the name of: "container id".
[[nodiscard]] Result<void> check_identifier(const std::string& what, const std::string& text);

// 128 random bits in hexadecimal: unique wherever two hosts meet.
[[nodiscard]] Result<std::string> random_name();

}  // namespace godwit
