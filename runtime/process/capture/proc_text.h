// The texts of /proc/PID/stat, status and timers (proc(5)), parsed. Pure functions over hostile text: a comm
// may hold anything but a 0, in status it is escaped, and numbers are only taken if they are numbers.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "runtime/process/snapshot.pb.h"

namespace godwit::runtime {

struct ProcStat {
  std::string comm;
  char state = '?';
  pid_t parent = 0;
  pid_t process_group = 0;
  pid_t session = 0;
  int32_t terminal = 0;
  int32_t nice = 0;
  uint64_t start_time = 0;  // clock ticks since boot: with the pid it names a process for good
  uint64_t start_code = 0, end_code = 0, start_stack = 0;
  uint64_t start_data = 0, end_data = 0, start_brk = 0;
  uint64_t arg_start = 0, arg_end = 0, env_start = 0, env_end = 0;
};
Result<ProcStat> parse_stat(std::string_view text);

struct ProcStatus {
  uint32_t umask = 0;
  pid_t tracer = 0;
  // Ids in every pid namespace from the reader's inwards.
  std::vector<pid_t> namespace_pids;
  std::vector<pid_t> namespace_process_groups;
  std::vector<pid_t> namespace_sessions;
  uint32_t seccomp_mode = 0;
  uint32_t seccomp_filters = 0;
  bool huge_pages_off = false;     // prctl PR_SET_THP_DISABLE
  model::Credentials credentials;  // without securebits
};
Result<ProcStatus> parse_status(std::string_view text);

// One entry of /proc/PID/timers; `notify_tid` is a pid of the reader's namespace.
struct ProcTimer {
  uint32_t id = 0;
  uint32_t signal = 0;
  uint64_t value = 0;
  uint32_t notify = 0;  // SIGEV_*
  pid_t notify_tid = 0;
  int32_t clock = 0;
};
Result<std::vector<ProcTimer>> parse_timers(std::string_view text);

}  // namespace godwit::runtime
