#include "base/printable.h"

#include <algorithm>

namespace godwit {

std::string printable(std::string text) {
  constexpr unsigned char kDelete = 127;
  std::ranges::replace_if(
      text, [](unsigned char byte) { return byte < ' ' || byte == kDelete; }, ' ');
  return text;
}

}  // namespace godwit
