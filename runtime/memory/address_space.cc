#include "runtime/memory/address_space.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <string>

#include "base/fd.h"
#include "runtime/memory/page_batch.h"

namespace godwit::runtime {
namespace {

// proc(5), VmFlags. The position is the bit; new codes go to the end.
constexpr auto kFlagCodes = std::to_array<std::string_view>(
    {"rd", "wr", "ex", "sh", "mr", "mw", "me", "ms", "gd", "pf", "lo", "io", "sr",
     "rr", "dc", "de", "ac", "nr", "ht", "sf", "ar", "wf", "dd", "sd", "mm", "hg",
     "nh", "mg", "bt", "mt", "um", "uw", "ui", "ss", "sl", "lf", "dp", "gu"});
static_assert(kFlagCodes.size() <= 64);

// Consumes a text from the left; every step says whether what it wanted was there.
class Cursor {
 public:
  explicit Cursor(std::string_view text) : rest_(text) {}
  template <typename Integer>
  bool number(Integer& value, int base) {
    const auto [end, error] = std::from_chars(rest_.data(), rest_.data() + rest_.size(), value, base);
    if (error != std::errc{}) return false;
    rest_.remove_prefix(static_cast<size_t>(end - rest_.data()));
    return true;
  }
  bool letter(char wanted) {
    if (rest_.empty() || rest_.front() != wanted) return false;
    rest_.remove_prefix(1);
    return true;
  }
  bool either(char yes, char no, bool& value) {
    value = letter(yes);
    return value || letter(no);
  }
  void spaces() { rest_.remove_prefix(std::min(rest_.find_first_not_of(' '), rest_.size())); }
  [[nodiscard]] std::string_view rest() const { return rest_; }

 private:
  std::string_view rest_;
};

// "55d0c0a00000-55d0c0a02000 r--p 00000000 fe:00 1234       /usr/bin/cat"
bool parse_header(std::string_view line, Vma& vma) {
  Cursor cursor(line);
  const bool read = cursor.number(vma.start, 16) && cursor.letter('-') && cursor.number(vma.end, 16) &&
                    cursor.letter(' ') && cursor.either('r', '-', vma.readable) &&
                    cursor.either('w', '-', vma.writable) && cursor.either('x', '-', vma.executable) &&
                    cursor.either('s', 'p', vma.shared) && cursor.letter(' ') &&
                    cursor.number(vma.offset, 16) && cursor.letter(' ') &&
                    cursor.number(vma.device_major, 16) && cursor.letter(':') &&
                    cursor.number(vma.device_minor, 16) && cursor.letter(' ') && cursor.number(vma.inode, 10);
  if (!read || (!cursor.rest().empty() && cursor.rest().front() != ' ')) return false;
  cursor.spaces();
  vma.name = cursor.rest();
  return vma.start < vma.end && vma.start % kPageSize == 0 && vma.end % kPageSize == 0;
}

// A mapping begins with an address, every other line of smaps with a capital letter.
bool is_header(std::string_view line) {
  return !line.empty() && ((line[0] >= '0' && line[0] <= '9') || (line[0] >= 'a' && line[0] <= 'f'));
}

uint64_t parse_flags(std::string_view codes) {
  uint64_t flags = 0;
  while (!codes.empty()) {
    const size_t length = std::min(codes.find(' '), codes.size());
    flags |= vma_flag(codes.substr(0, length));
    codes.remove_prefix(std::min(length + 1, codes.size()));
  }
  return flags;
}

Result<std::vector<Vma>> parse(std::string_view text, bool details) {
  constexpr std::string_view kFlagsKey = "VmFlags:";
  std::vector<Vma> vmas;
  while (!text.empty()) {
    const size_t length = std::min(text.find('\n'), text.size());
    const std::string_view line = text.substr(0, length);
    text.remove_prefix(std::min(length + 1, text.size()));
    if (details && !is_header(line)) {
      if (vmas.empty()) return refuse("parse", "smaps", "it does not begin with a mapping");
      if (line.starts_with(kFlagsKey)) vmas.back().flags = parse_flags(line.substr(kFlagsKey.size()));
      continue;
    }
    Vma vma;
    if (!parse_header(line, vma))
      return refuse("parse a mapping", std::string(line.substr(0, 128)), "not as proc(5) describes it");
    if (!vmas.empty() && vma.end <= vmas.back().end)
      return refuse("parse a mapping", std::string(line.substr(0, 128)), "it is not behind the one before");
    // The process ran on between two lines, and this one is the younger truth.
    while (!vmas.empty() && vmas.back().start >= vma.start) vmas.pop_back();
    if (!vmas.empty()) vmas.back().end = std::min(vmas.back().end, vma.start);
    vmas.push_back(std::move(vma));
  }
  return vmas;
}

}  // namespace

uint64_t vma_flag(std::string_view code) {
  for (size_t bit = 0; bit < kFlagCodes.size(); ++bit)
    if (kFlagCodes[bit] == code) return uint64_t{1} << bit;
  return 0;
}

Result<std::vector<Vma>> parse_maps(std::string_view text) {
  return parse(text, false);
}

Result<std::vector<Vma>> parse_smaps(std::string_view text) {
  return parse(text, true);
}

Result<std::vector<Vma>> read_maps(pid_t pid) {
  GODWIT_ASSIGN(const std::string text, read_file("/proc/" + std::to_string(pid) + "/maps"));
  return parse_maps(text);
}

Result<std::vector<Vma>> read_smaps(pid_t pid) {
  GODWIT_ASSIGN(const std::string text, read_file("/proc/" + std::to_string(pid) + "/smaps"));
  return parse_smaps(text);
}

}  // namespace godwit::runtime
