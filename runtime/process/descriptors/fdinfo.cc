#include "runtime/process/descriptors/fdinfo.h"

#include <fcntl.h>

#include <charconv>
#include <cstdio>

#include "base/fd.h"

namespace godwit::runtime {
namespace {

std::string_view trim(std::string_view text) {
  while (!text.empty() && (text.front() == ' ' || text.front() == '\t')) text.remove_prefix(1);
  while (!text.empty() && (text.back() == ' ' || text.back() == '\t')) text.remove_suffix(1);
  return text;
}

template <typename Integer>
bool trimmed_number(std::string_view text, Integer& value, int base = 10) {
  text = trim(text);
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value, base);
  return error == std::errc() && end == text.data() + text.size();
}

// "(seconds, nanoseconds)"
bool timer_value(std::string_view text, uint64_t& value) {
  text = trim(text);
  const size_t comma = text.find(',');
  if (comma == std::string_view::npos || text.size() < 5 || text.front() != '(' || text.back() != ')')
    return false;
  uint64_t seconds = 0;
  uint64_t nanoseconds = 0;
  if (!trimmed_number(text.substr(1, comma - 1), seconds) ||
      !trimmed_number(text.substr(comma + 1, text.size() - comma - 2), nanoseconds))
    return false;
  if (seconds > uint64_t{1} << 33 || nanoseconds >= 1'000'000'000) return false;
  value = seconds * 1'000'000'000 + nanoseconds;
  return true;
}

bool watch_line(const std::string& line, FdInfo& info) {
  FdInfo::Watch watch;
  unsigned long long data = 0;
  unsigned long inode = 0;
  if (std::sscanf(line.c_str(), " %d events: %x data: %llx pos:%*d ino:%lx", &watch.descriptor, &watch.events,
                  &data, &inode) != 4)
    return false;
  watch.data = data;
  watch.inode = inode;
  info.watches.push_back(watch);
  return true;
}

// " 1: FLOCK  ADVISORY  WRITE 26 fe:00:1234 0 EOF"
bool lock_line(const std::string& line, FdInfo& info) {
  char kind[16] = {};
  char mode[16] = {};
  char type[16] = {};
  char end[32] = {};
  long start = 0;
  FdInfo::Lock lock;
  if (std::sscanf(line.c_str(), " %*d: %15s %15s %15s %d %*s %ld %31s", kind, mode, type, &lock.pid, &start,
                  end) != 6)
    return false;
  const std::string_view name(kind);
  lock.kind = name == "FLOCK" ? 1 : name == "POSIX" ? 2 : name == "OFDLCK" ? 3 : 0;
  lock.type = std::string_view(type) == "WRITE" ? F_WRLCK : F_RDLCK;
  if (lock.kind == 0 || std::string_view(mode) != "ADVISORY") {
    info.foreign_lock = name;
    return true;
  }
  lock.start = start;
  int64_t last = 0;
  if (std::string_view(end) != "EOF") {
    if (!trimmed_number(std::string_view(end), last) || last < start) return false;
    lock.length = last - start + 1;
  }
  info.locks.push_back(lock);
  return true;
}

bool field(std::string_view key, std::string_view value, FdInfo& info) {
  if (key == "pos") return trimmed_number(value, info.position);
  if (key == "flags") return trimmed_number(value, info.flags, 8);
  if (key == "eventfd-count") return trimmed_number(value, info.event_count, 16);
  if (key == "sigmask") return trimmed_number(value, info.signal_mask, 16);
  if (key == "clockid") return trimmed_number(value, info.clock);
  if (key == "ticks") return trimmed_number(value, info.ticks);
  if (key == "settime flags") return trimmed_number(value, info.settime_flags, 8);
  if (key == "it_value") return timer_value(value, info.value_ns);
  if (key == "it_interval") return timer_value(value, info.interval_ns);
  if (key == "tfd") return watch_line(std::string(value), info);
  if (key == "lock") return lock_line(std::string(value), info);
  if (key == "eventfd-semaphore") {
    int on = 0;
    const bool good = trimmed_number(value, on);
    info.event_semaphore = on != 0;
    return good;
  }
  return true;
}

}  // namespace

Result<FdInfo> parse_fdinfo(std::string_view text) {
  FdInfo info;
  while (!text.empty()) {
    const size_t end = text.find('\n');
    const std::string_view line = text.substr(0, end);
    text.remove_prefix(end == std::string_view::npos ? text.size() : end + 1);
    const size_t colon = line.find(':');
    if (colon == std::string_view::npos) continue;
    if (!field(trim(line.substr(0, colon)), line.substr(colon + 1), info))
      return refuse("read fdinfo line", std::string(line), "it has another form than this program knows");
  }
  return info;
}

Result<FdInfo> read_fdinfo(pid_t pid, int number) {
  GODWIT_ASSIGN(const std::string text,
                read_file("/proc/" + std::to_string(pid) + "/fdinfo/" + std::to_string(number)));
  return parse_fdinfo(text);
}

}  // namespace godwit::runtime
