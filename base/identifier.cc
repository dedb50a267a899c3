#include "base/identifier.h"

#include <sys/random.h>

#include <algorithm>
#include <array>

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

Result<std::string> random_name() {
  std::array<unsigned char, 16> bytes{};
  if (::getrandom(bytes.data(), bytes.size(), 0) != static_cast<ssize_t>(bytes.size()))
    return fail("choose", "a random name");
  constexpr const char* kDigits = "0123456789abcdef";
  std::string name;
  for (const unsigned char byte : bytes) {
    name += kDigits[byte >> 4];
    name += kDigits[byte & 15];
  }
  return name;
}

}  // namespace godwit
