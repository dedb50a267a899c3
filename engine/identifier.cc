#include "engine/identifier.h"

#include <algorithm>

namespace godwit::engine {
namespace {
constexpr size_t kIdentifierBytesMax = 64;
bool is_alphanumeric(char c) {
  return (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9');
}
}  // namespace

Result<void> check_identifier(const std::string& what, const std::string& text) {
  const bool good = !text.empty() && text.size() <= kIdentifierBytesMax && is_alphanumeric(text.front()) &&
                    std::ranges::all_of(
                        text, [](char c) { return is_alphanumeric(c) || c == '_' || c == '.' || c == '-'; });
  if (good) return {};
  // What came may be anything: it is not repeated.
  return refuse("accept", "a " + what,
                "it must be letters, digits, '_', '.', '-', at most 64, the first no sign");
}

}  // namespace godwit::engine
