#include "tools/godwit/terminal.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <iostream>

#include "base/printable.h"

namespace godwit::tools {

namespace {
constexpr unsigned kColumnsDefault = 80;

// Characters, not bytes, of UTF-8: continuation bytes take no column.
size_t width(const std::string& text) {
  return static_cast<size_t>(std::ranges::count_if(
      text, [](char byte) { return (static_cast<unsigned char>(byte) & 0xc0) != 0x80; }));
}
}  // namespace

bool stdout_is_terminal() {
  return ::isatty(STDOUT_FILENO) == 1;
}

unsigned terminal_columns() {
  winsize size{};
  if (::ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) != 0 || size.ws_col == 0) return kColumnsDefault;
  return size.ws_col;
}

void print_error(const std::string& text) {
  std::cerr << "godwit: " << printable(text) << "\n";
}

std::string format_table(const std::vector<std::vector<std::string>>& rows) {
  std::vector<size_t> widths;
  for (const auto& row : rows) {
    widths.resize(std::max(widths.size(), row.size()));
    for (size_t column = 0; column < row.size(); ++column)
      widths[column] = std::max(widths[column], width(row[column]));
  }
  std::string text;
  for (const auto& row : rows) {
    std::string line;
    for (size_t column = 0; column < row.size(); ++column)
      line += printable(row[column]) + std::string(widths[column] - width(row[column]) + 2, ' ');
    line.erase(line.find_last_not_of(' ') + 1);
    text += line + "\n";
  }
  return text;
}

std::string format_bar(double start, double length, double total, unsigned columns) {
  if (columns == 0) return {};
  const double scale = total > 0 ? columns / total : 0;
  const unsigned first =
      static_cast<unsigned>(std::clamp(std::floor(start * scale), 0.0, static_cast<double>(columns - 1)));
  const unsigned wanted =
      static_cast<unsigned>(std::clamp(std::round(length * scale), 1.0, static_cast<double>(columns)));
  const unsigned filled = std::min(wanted, columns - first);
  return std::string(first, ' ') + std::string(filled, '=') + std::string(columns - first - filled, ' ');
}

}  // namespace godwit::tools
