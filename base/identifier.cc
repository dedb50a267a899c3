#include "base/identifier.h"

#include <algorithm>

#include "base/printable.h"

namespace godwit {
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
  // It may come from anywhere and be anything.
  return refuse("accept the " + what, "'" + printable(text.substr(0, kIdentifierBytesMax)) + "'",
                "it must be 1 to 64 letters, digits, '_', '.' or '-', and begin with a letter or digit");
}

}  // namespace godwit
