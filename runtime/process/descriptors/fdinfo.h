// What /proc/PID/fdinfo/N says of a descriptor (proc(5)), as numbers. A pure parser: the text comes from the
// kernel, but names of a hostile container may be in it, so every field is checked.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace godwit::runtime {

struct FdInfo {
  struct Watch {  // "tfd:" of an epoll instance
    int descriptor = -1;
    uint32_t events = 0;
    uint64_t data = 0;
    uint64_t inode = 0;
  };
  struct Lock {         // "lock:", as /proc/locks has it
    uint32_t kind = 0;  // model::FileLock.kind
    uint32_t type = 0;  // F_RDLCK, F_WRLCK
    int pid = 0;        // in the pid namespace of the reader
    int64_t start = 0;
    int64_t length = 0;  // 0: to the end
  };
  int64_t position = 0;
  uint32_t flags = 0;  // of open(2), O_CLOEXEC included
  uint64_t event_count = 0;
  std::optional<bool> event_semaphore;  // older kernels (6.1) do not tell
  uint64_t signal_mask = 0;
  int clock = 0;
  uint64_t ticks = 0;
  uint32_t settime_flags = 0;
  uint64_t value_ns = 0;
  uint64_t interval_ns = 0;
  std::vector<Watch> watches;
  std::vector<Lock> locks;
  // A lease or a lock of a kind that cannot be carried; empty if there is none.
  std::string foreign_lock;
};

[[nodiscard]] Result<FdInfo> parse_fdinfo(std::string_view text);
[[nodiscard]] Result<FdInfo> read_fdinfo(pid_t pid, int number);

}  // namespace godwit::runtime
