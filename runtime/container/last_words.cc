#include "runtime/container/last_words.h"

#include <algorithm>
#include <nlohmann/json.hpp>

namespace godwit::runtime {

std::string last_words(const std::string& text) {
  constexpr size_t kLengthMax = 600;
  const size_t end = text.find_last_not_of(" \t\r\n");
  if (end == std::string::npos) return {};
  const size_t start = text.rfind('\n', end);
  std::string line = text.substr(start == std::string::npos ? 0 : start + 1,
                                 end - (start == std::string::npos ? 0 : start + 1) + 1);
  if (line.starts_with('{')) {
    const auto record = nlohmann::json::parse(line, nullptr, false);
    if (record.is_object() && record.contains("msg") && record["msg"].is_string()) line = record["msg"];
  }
  std::replace_if(
      line.begin(), line.end(), [](unsigned char c) { return c < ' ' || c == 127; }, ' ');
  if (line.size() > kLengthMax) line.resize(kLengthMax);
  return line;
}

}  // namespace godwit::runtime
