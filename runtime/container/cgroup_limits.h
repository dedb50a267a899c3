// What a container may use, and what it uses, as its cgroup says now.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <string>

#include "base/result.h"
#include "runtime/container/container.h"

namespace godwit::runtime {

// The limits of the cgroup that `pid` (a container's init) is in. A cpu quota that CpuThrottle has set shows
// here as any other; what a container is entitled to stands in the agent's record.
[[nodiscard]] Result<ContainerLimits> read_limits(pid_t pid);

struct ContainerUsage {
  uint64_t memory_bytes = 0;
  uint64_t cpu_ns = 0;  // since the cgroup was made
};
[[nodiscard]] Result<ContainerUsage> read_usage(pid_t pid);

// The file of `pid`'s cgroup in which the line "oom_kill" counts its processes that the kernel has killed for
// want of memory, whoever's limit it was. Ask while the process lives; the file outlives it.
[[nodiscard]] Result<std::string> oom_kills_path(pid_t pid);

}  // namespace godwit::runtime
