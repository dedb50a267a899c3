// Text of others (an agent, a container, a program), made fit to be shown.
#pragma once

#include <string>

namespace godwit {

// Line ends and other control characters become spaces: it is one line, and cannot drive a terminal.
[[nodiscard]] std::string printable(std::string text);

}  // namespace godwit
