// Cgroup freezing: v2's cgroup.freeze (also in the hybrid mount), v1's freezer.state elsewhere. And cpu
// bandwidth, to slow a container down that writes faster than a link carries.
//
// Threads: calls on one object must not overlap.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <string>
#include <vector>

#include "base/deadline.h"
#include "base/fd.h"
#include "base/result.h"

namespace godwit::runtime {

// Its files are opened once, so that freezing costs two system calls and the wait. A Freezer that goes leaves
// the cgroup as it is: a frozen one stays frozen until somebody thaws it.
class Freezer {
 public:
  // Opens the freezer of the cgroup that `pid` (a container's init) is in. Refused if the caller is in it.
  static Result<Freezer> open(pid_t pid);
  // A task that is in a page fault or in a read freezes when that is done, and everybody else stands still
  // until then: so long may it take, if the container is to run on afterwards.
  static constexpr int64_t kFreezeMs = 60;

  // Returns when all tasks are frozen. On any failure the cgroup has been thawed again. EAGAIN if that is not
  // done by `deadline`; the error names a thread that does not freeze, and where in the kernel it is. v2:
  // processes that begin in a frozen cgroup are frozen; freezing is complete when no task is left in user
  // space or in an interruptible sleep (kernel: Documentation/admin-guide/cgroup-v2.rst).
  Result<void> freeze(Deadline deadline = Deadline::in_ms(kFreezeMs));
  // Returns at once; tasks run when they are next scheduled. Thawing what is not frozen is no error.
  Result<void> thaw();
  // All processes of the cgroup and of its children, as our pid namespace numbers them, ascending. A list,
  // not a lock: processes of a container that runs come and go.
  Result<std::vector<pid_t>> processes() const;
  [[nodiscard]] bool version2() const { return version2_; }

 private:
  Result<void> freeze_v1(Deadline deadline);
  Result<void> await_v2(Deadline deadline);
  [[nodiscard]] std::unexpected<Error> too_late() const;
  Result<void> write_state(bool frozen);

  std::string directory_;
  bool version2_ = false;
  Fd state_;   // cgroup.freeze or freezer.state
  Fd events_;  // v2's cgroup.events
};

// Sets the cpu quota of the container's cgroup for a while.
//
// Release it before freezing: a task that waits for its next slice freezes late. A worker that dies leaves
// the quota behind, so the agent then calls Runc::update() with the limits of its record, which sets both
// quota and period.
class CpuThrottle {
 public:
  // From here on its use of the cpu is measured.
  static Result<CpuThrottle> open(pid_t pid);
  // Limits to `percent` (1..99) of what it used while it was not limited by us (from open() or release() to
  // the first limit()), never to more than its own quota. Calling it again changes the percentage of that
  // same measure.
  Result<void> limit(unsigned percent);
  // Restores the container's own quota; a new measure begins. The destructor does it too.
  Result<void> release();
  // The measure: cpu time per time. 1.0 is one processor. The first as of the last limit() (0 before), the
  // other since the measure began.
  [[nodiscard]] double usual_cpus() const { return usual_cpus_; }
  [[nodiscard]] Result<double> used_cpus() const;
  CpuThrottle(CpuThrottle&& other) noexcept;
  CpuThrottle& operator=(CpuThrottle&& other) noexcept;
  ~CpuThrottle();

 private:
  CpuThrottle() = default;
  Result<void> start_measure();
  Result<uint64_t> used_us() const;
  Result<void> write_bandwidth(const std::string& quota, const std::string& period);

  std::string directory_;
  bool version2_ = false;
  std::string original_quota_;   // "max" (v2) or "-1" (v1): none
  std::string original_period_;  // us
  std::string usage_path_;
  bool usage_is_ns_ = false;  // cpuacct.usage; else cpu.stat's usage_usec
  uint64_t measure_used_us_ = 0;
  int64_t measure_began_us_ = 0;
  double usual_cpus_ = 0;
  bool limited_ = false;
};

}  // namespace godwit::runtime
