#include "runtime/container/last_words.h"

#include <nlohmann/json.hpp>
#include <utility>

#include "base/printable.h"

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
  if (line.size() > kLengthMax) line.resize(kLengthMax);
  return printable(std::move(line));
}

}  // namespace godwit::runtime
