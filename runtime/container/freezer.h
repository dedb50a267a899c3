// Cgroup freezing: v2's cgroup.freeze (also in the hybrid mount), v1's freezer.state elsewhere.
#pragma once

#include <sys/types.h>

#include <string>
#include <vector>

#include "base/fd.h"
#include "base/result.h"

namespace godwit::runtime {

class Freezer {
 public:
  // Opens the freezer of the cgroup that `pid` (a container's init) is in.
  static Result<Freezer> open(pid_t pid);
  // Returns when all tasks are frozen, or ETIMEDOUT after `timeout_ms`.
  Result<void> freeze(int timeout_ms = 2000);
  Result<void> thaw();
  // All processes of the cgroup and of its children, as our pid namespace numbers them.
  Result<std::vector<pid_t>> processes() const;
  [[nodiscard]] bool version2() const { return version2_; }

 private:
  std::string directory_;
  bool version2_ = false;
};

// Cpu bandwidth of the container's cgroup, to slow it down when it writes faster than the link carries.
class CpuThrottle {
 public:
  static Result<CpuThrottle> open(pid_t pid);
  // Limits to `percent` (1..99) of what it has used lately; the destructor and release() restore the old
  // quota.
  Result<void> limit(unsigned percent);
  Result<void> release();
  CpuThrottle(CpuThrottle&& other) noexcept;
  CpuThrottle& operator=(CpuThrottle&& other) noexcept;
  ~CpuThrottle();

 private:
  CpuThrottle() = default;
  std::string directory_;
  bool version2_ = false;
  std::string original_quota_;
  bool limited_ = false;
};

}  // namespace godwit::runtime
