// Names that become parts of paths: container ids and sessions.
#pragma once

#include <string>

#include "base/result.h"

namespace godwit::engine {

// [A-Za-z0-9][A-Za-z0-9_.-]{0,63}
Result<void> check_identifier(const std::string& what, const std::string& text);

}  // namespace godwit::engine
