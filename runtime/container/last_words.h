// What a program said last, for a message of one line.
#pragma once

#include <string>

namespace godwit::runtime {

// The last non-empty line of `text`, fit for a one-line message: no control characters, bounded length. Where
// the line is a JSON log record of runc's, its message.
[[nodiscard]] std::string last_words(const std::string& text);

}  // namespace godwit::runtime
