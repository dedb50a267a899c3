#include "runtime/process/capture/proc_text.h"

#include <signal.h>

#include <algorithm>
#include <charconv>

namespace godwit::runtime {
namespace {

template <typename Integer>
bool number(std::string_view text, Integer& value, int base = 10) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value, base);
  return error == std::errc{} && end == text.data() + text.size();
}

std::vector<std::string_view> words(std::string_view text) {
  constexpr std::string_view kSpace = " \t\n";
  std::vector<std::string_view> found;
  for (size_t at = text.find_first_not_of(kSpace); at != std::string_view::npos;) {
    const size_t end = std::min(text.find_first_of(kSpace, at), text.size());
    found.push_back(text.substr(at, end - at));
    at = text.find_first_not_of(kSpace, end);
  }
  return found;
}

std::string_view take_line(std::string_view& text) {
  const size_t length = std::min(text.find('\n'), text.size());
  const std::string_view line = text.substr(0, length);
  text.remove_prefix(std::min(length + 1, text.size()));
  return line;
}

bool pids(std::string_view value, std::vector<pid_t>& to) {
  to.clear();
  for (const auto word : words(value)) {
    pid_t pid = 0;
    if (!number(word, pid)) return false;
    to.push_back(pid);
  }
  return !to.empty();
}

// "Uid:" and "Gid:": real, effective, saved, file system.
bool four(std::string_view value, uint32_t (&ids)[4]) {
  const auto found = words(value);
  if (found.size() != 4) return false;
  for (size_t i = 0; i < 4; ++i)
    if (!number(found[i], ids[i])) return false;
  return true;
}

bool user_line(std::string_view key, std::string_view value, model::Credentials& to) {
  uint32_t ids[4] = {};
  if (!four(value, ids)) return false;
  if (key == "Uid") {
    to.set_uid(ids[0]), to.set_euid(ids[1]), to.set_suid(ids[2]), to.set_fsuid(ids[3]);
  } else {
    to.set_gid(ids[0]), to.set_egid(ids[1]), to.set_sgid(ids[2]), to.set_fsgid(ids[3]);
  }
  return true;
}

bool groups_line(std::string_view value, model::Credentials& to) {
  for (const auto word : words(value)) {
    uint32_t group = 0;
    if (!number(word, group)) return false;
    to.add_groups(group);
  }
  return true;
}

bool capability_line(std::string_view key, std::string_view value, model::Credentials& to) {
  uint64_t bits = 0;
  const auto found = words(value);
  if (found.size() != 1 || !number(found[0], bits, 16)) return false;
  if (key == "CapInh") to.set_capabilities_inheritable(bits);
  if (key == "CapPrm") to.set_capabilities_permitted(bits);
  if (key == "CapEff") to.set_capabilities_effective(bits);
  if (key == "CapBnd") to.set_capabilities_bounding(bits);
  if (key == "CapAmb") to.set_capabilities_ambient(bits);
  return true;
}

bool status_line(std::string_view key, std::string_view value, ProcStatus& to) {
  const auto found = words(value);
  const std::string_view first = found.empty() ? std::string_view{} : found[0];
  if (key == "Umask") return number(first, to.umask, 8);
  if (key == "TracerPid") return number(first, to.tracer);
  if (key == "NSpid") return pids(value, to.namespace_pids);
  if (key == "NSpgid") return pids(value, to.namespace_process_groups);
  if (key == "NSsid") return pids(value, to.namespace_sessions);
  if (key == "Seccomp") return number(first, to.seccomp_mode);
  if (key == "Seccomp_filters") return number(first, to.seccomp_filters);
  if (key == "Uid" || key == "Gid") return user_line(key, value, to.credentials);
  if (key == "Groups") return groups_line(value, to.credentials);
  if (key.starts_with("Cap")) return capability_line(key, value, to.credentials);
  if (key == "THP_enabled") {
    to.huge_pages_off = first == "0";
    return true;
  }
  if (key == "NoNewPrivs") {
    to.credentials.set_no_new_privileges(first == "1");
    return first == "0" || first == "1";
  }
  return true;
}

// "signal/pid.12", "none/tid.13", "thread/pid.1"
bool timer_notification(std::string_view value, ProcTimer& timer) {
  const size_t slash = value.find('/'), dot = value.find('.');
  if (slash == std::string_view::npos || dot == std::string_view::npos || dot < slash) return false;
  const std::string_view kind = value.substr(0, slash), whom = value.substr(slash + 1, dot - slash - 1);
  if (kind == "none")
    timer.notify = SIGEV_NONE;
  else if (kind == "signal")
    timer.notify = SIGEV_SIGNAL;
  else if (kind == "thread")
    timer.notify = SIGEV_THREAD;
  else
    return false;
  if (whom == "tid")
    timer.notify |= SIGEV_THREAD_ID;
  else if (whom != "pid")
    return false;
  return number(value.substr(dot + 1), timer.notify_tid);
}

bool timer_line(std::string_view line, std::vector<ProcTimer>& timers) {
  const size_t colon = line.find(':');
  if (colon == std::string_view::npos) return false;
  const std::string_view key = line.substr(0, colon);
  const auto found = words(line.substr(colon + 1));
  if (found.size() != 1) return false;
  const std::string_view value = found[0];
  if (key == "ID") return number(value, timers.emplace_back().id);
  if (timers.empty()) return false;
  ProcTimer& timer = timers.back();
  if (key == "ClockID") return number(value, timer.clock);
  if (key == "notify") return timer_notification(value, timer);
  if (key != "signal") return true;  // kernels may add lines
  const size_t slash = value.find('/');
  if (slash == std::string_view::npos) return false;
  std::string_view pointer = value.substr(slash + 1);
  if (pointer == "(null)") pointer = "0";
  return number(value.substr(0, slash), timer.signal) && number(pointer, timer.value, 16);
}

}  // namespace

Result<ProcStat> parse_stat(std::string_view text) {
  const auto bad = [&] {
    return refuse("parse", "/proc/PID/stat",
                  "not as proc(5) describes it: " + std::string(text.substr(0, 80)));
  };
  // The comm may contain parentheses, spaces and newlines; what follows it may not contain a parenthesis.
  const size_t open = text.find('('), close = text.rfind(')');
  if (open == std::string_view::npos || close == std::string_view::npos || close < open) return bad();
  const auto fields = words(text.substr(close + 1));
  if (fields.size() < 49) return bad();
  const auto field = [&](size_t number_from_1) {
    return fields[number_from_1 - 3];
  };  // as proc(5) numbers them

  ProcStat stat{.comm = std::string(text.substr(open + 1, close - open - 1)), .state = field(3)[0]};
  const bool read = number(field(4), stat.parent) && number(field(5), stat.process_group) &&
                    number(field(6), stat.session) && number(field(7), stat.terminal) &&
                    number(field(19), stat.nice) && number(field(22), stat.start_time) &&
                    number(field(26), stat.start_code) && number(field(27), stat.end_code) &&
                    number(field(28), stat.start_stack) && number(field(45), stat.start_data) &&
                    number(field(46), stat.end_data) && number(field(47), stat.start_brk) &&
                    number(field(48), stat.arg_start) && number(field(49), stat.arg_end) &&
                    number(field(50), stat.env_start) && number(field(51), stat.env_end);
  if (!read) return bad();
  return stat;
}

Result<ProcStatus> parse_status(std::string_view text) {
  ProcStatus status;
  while (!text.empty()) {
    const std::string_view line = take_line(text);
    const size_t colon = line.find(':');
    if (colon == std::string_view::npos ||
        !status_line(line.substr(0, colon), line.substr(colon + 1), status))
      return refuse("parse", "/proc/PID/status",
                    "not as proc(5) describes it: " + std::string(line.substr(0, 80)));
  }
  if (status.namespace_pids.empty())
    return refuse("parse", "/proc/PID/status", "the kernel shows no NSpid (CONFIG_PID_NS)");
  return status;
}

Result<std::vector<ProcTimer>> parse_timers(std::string_view text) {
  std::vector<ProcTimer> timers;
  while (!text.empty()) {
    const std::string_view line = take_line(text);
    if (!timer_line(line, timers))
      return refuse("parse", "/proc/PID/timers",
                    "not as proc(5) describes it: " + std::string(line.substr(0, 80)));
  }
  return timers;
}

}  // namespace godwit::runtime
