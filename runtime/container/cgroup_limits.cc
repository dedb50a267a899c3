#include "runtime/container/cgroup_limits.h"

#include <unistd.h>

#include <sstream>
#include <string>

#include "base/fd.h"
#include "runtime/container/cgroup.h"

namespace godwit::runtime {
namespace {

// v1 says "no limit" as the largest multiple of the page size that fits a signed 64-bit number.
constexpr uint64_t kNoLimitV1 = uint64_t{INT64_MAX} & ~uint64_t{0xfff};

bool has_file(const Result<std::string>& directory, const char* name) {
  return directory && ::access((*directory + name).c_str(), R_OK) == 0;
}

uint64_t limit_or_none(uint64_t bytes) {
  return bytes >= kNoLimitV1 ? 0 : bytes;
}

uint32_t as_millis(uint64_t quota_us, uint64_t period_us) {
  if (quota_us == UINT64_MAX || period_us == 0) return 0;
  return static_cast<uint32_t>(quota_us * 1000 / period_us);
}

}  // namespace

Result<ContainerLimits> read_limits(pid_t pid) {
  ContainerLimits limits;
  const auto unified = cgroup_directory(pid, "");
  if (has_file(unified, "/memory.max")) {
    GODWIT_ASSIGN(const uint64_t bytes, cgroup_number(*unified + "/memory.max"));
    limits.memory_bytes = limit_or_none(bytes);
  } else {
    GODWIT_ASSIGN(const std::string memory, cgroup_directory(pid, "memory"));
    GODWIT_ASSIGN(const uint64_t bytes, cgroup_number(memory + "/memory.limit_in_bytes"));
    limits.memory_bytes = limit_or_none(bytes);
  }
  if (has_file(unified, "/cpu.max")) {
    GODWIT_ASSIGN(const uint64_t quota_us, cgroup_number(*unified + "/cpu.max"));
    GODWIT_ASSIGN(const std::string text, read_file(*unified + "/cpu.max", 4096));
    std::istringstream words(text);
    std::string quota;
    uint64_t period_us = 0;
    words >> quota >> period_us;
    limits.cpu_millis = as_millis(quota_us, period_us);
  } else {
    GODWIT_ASSIGN(const std::string cpu, cgroup_directory(pid, "cpu"));
    GODWIT_ASSIGN(const uint64_t quota_us, cgroup_number(cpu + "/cpu.cfs_quota_us"));
    GODWIT_ASSIGN(const uint64_t period_us, cgroup_number(cpu + "/cpu.cfs_period_us"));
    limits.cpu_millis = as_millis(quota_us, period_us);
  }
  return limits;
}

Result<ContainerUsage> read_usage(pid_t pid) {
  ContainerUsage usage;
  const auto unified = cgroup_directory(pid, "");
  if (has_file(unified, "/memory.current")) {
    GODWIT_ASSIGN(usage.memory_bytes, cgroup_number(*unified + "/memory.current"));
  } else {
    GODWIT_ASSIGN(const std::string memory, cgroup_directory(pid, "memory"));
    GODWIT_ASSIGN(usage.memory_bytes, cgroup_number(memory + "/memory.usage_in_bytes"));
  }
  if (has_file(unified, "/cpu.stat")) {
    GODWIT_ASSIGN(const uint64_t used_us, cgroup_number(*unified + "/cpu.stat", "usage_usec"));
    usage.cpu_ns = used_us * 1000;
  } else {
    GODWIT_ASSIGN(const std::string account, cgroup_directory(pid, "cpuacct"));
    GODWIT_ASSIGN(usage.cpu_ns, cgroup_number(account + "/cpuacct.usage"));
  }
  return usage;
}

Result<std::string> oom_kills_path(pid_t pid) {
  const auto unified = cgroup_directory(pid, "");
  if (has_file(unified, "/memory.events")) return *unified + "/memory.events";
  GODWIT_ASSIGN(const std::string memory, cgroup_directory(pid, "memory"));
  return memory + "/memory.oom_control";
}

}  // namespace godwit::runtime
