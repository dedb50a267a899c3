#include "base/units.h"

#include <fmt/format.h>

#include <array>
#include <charconv>
#include <cmath>
#include <span>

namespace godwit {
namespace {

struct Unit {
  std::string_view name;
  double factor;
};

constexpr double kKibi = 1024;
constexpr std::array kByteUnits = {
    Unit{"", 1},
    Unit{"B", 1},
    Unit{"K", kKibi},
    Unit{"KiB", kKibi},
    Unit{"KB", 1e3},
    Unit{"M", kKibi* kKibi},
    Unit{"MiB", kKibi* kKibi},
    Unit{"MB", 1e6},
    Unit{"G", kKibi* kKibi* kKibi},
    Unit{"GiB", kKibi* kKibi* kKibi},
    Unit{"GB", 1e9},
    Unit{"T", kKibi* kKibi* kKibi* kKibi},
    Unit{"TiB", kKibi* kKibi* kKibi* kKibi},
    Unit{"TB", 1e12},
};
constexpr std::array kTimeUnits = {
    Unit{"us", 1}, Unit{"ms", 1e3}, Unit{"s", 1e6}, Unit{"m", 60e6}, Unit{"min", 60e6}, Unit{"h", 3600e6},
};
// Beyond this a double no longer counts every unit.
constexpr double kLargest = 9.0e15;

Result<double> parse_quantity(std::string_view text, std::span<const Unit> units, const char* what,
                              const char* example) {
  double number = 0;
  const auto [rest, error] =
      std::from_chars(text.data(), text.data() + text.size(), number, std::chars_format::fixed);
  const std::string object(text);
  if (error != std::errc() || !std::isfinite(number) || number < 0)
    return refuse(what, object, fmt::format("it must be a number with a unit, such as {}", example));
  std::string_view suffix(rest, static_cast<size_t>(text.data() + text.size() - rest));
  while (suffix.starts_with(' ')) suffix.remove_prefix(1);
  for (const Unit& unit : units) {
    if (unit.name != suffix) continue;
    const double value = number * unit.factor;
    if (value > kLargest) return refuse(what, object, "it is too large");
    return value;
  }
  return refuse(what, object,
                suffix.empty() ? fmt::format("it lacks a unit, as in {}", example)
                               : fmt::format("unknown unit '{}'; write it as in {}", suffix, example));
}

}  // namespace

Result<uint64_t> parse_bytes(std::string_view text) {
  GODWIT_ASSIGN(const double bytes, parse_quantity(text, kByteUnits, "read the size", "256MiB"));
  return static_cast<uint64_t>(std::llround(bytes));
}

Result<uint64_t> parse_duration_us(std::string_view text) {
  GODWIT_ASSIGN(const double duration, parse_quantity(text, kTimeUnits, "read the duration", "20ms"));
  return static_cast<uint64_t>(std::llround(duration));
}

Result<uint32_t> parse_cpus(std::string_view text) {
  constexpr Unit kNone[] = {{"", 1}};
  constexpr double kMillisMin = 10;
  constexpr double kMillisMax = 1'024'000;
  GODWIT_ASSIGN(const double cpus, parse_quantity(text, kNone, "read the number of processors", "1.5"));
  const double millis = std::round(cpus * 1000);
  if (millis < kMillisMin || millis > kMillisMax)
    return refuse("read the number of processors", std::string(text), "it must lie between 0.01 and 1024");
  return static_cast<uint32_t>(millis);
}

std::string format_bytes(uint64_t bytes) {
  constexpr std::array kNames = {"KiB", "MiB", "GiB", "TiB"};
  if (bytes < 1024) return fmt::format("{} B", bytes);
  double value = static_cast<double>(bytes) / kKibi;
  size_t unit = 0;
  while (value >= kKibi && unit + 1 < kNames.size()) {
    value /= kKibi;
    ++unit;
  }
  return fmt::format("{:.{}f} {}", value, value < 10 ? 1 : 0, kNames[unit]);
}

std::string format_rate(uint64_t bytes_per_second) {
  constexpr std::array kNames = {"B/s", "KB/s", "MB/s", "GB/s"};
  double value = static_cast<double>(bytes_per_second);
  size_t unit = 0;
  while (value >= 1000 && unit + 1 < kNames.size()) {
    value /= 1000;
    ++unit;
  }
  return fmt::format("{:.{}f} {}", value, unit != 0 && value < 10 ? 1 : 0, kNames[unit]);
}

std::string format_duration_us(uint64_t duration_us) {
  const double value = static_cast<double>(duration_us);
  if (duration_us < 1000) return fmt::format("{} us", duration_us);
  if (duration_us < 1'000'000) return fmt::format("{:.2f} ms", value / 1e3);
  return fmt::format("{:.2f} s", value / 1e6);
}

std::string format_cpus(uint32_t cpu_millis) {
  if (cpu_millis == 0) return "-";
  return fmt::format("{:g}", static_cast<double>(cpu_millis) / 1000);
}

}  // namespace godwit
