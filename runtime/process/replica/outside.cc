// What is set from outside, without a call injected: scheduling, the out-of-memory score.
#include <sched.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstring>

#include "base/fd.h"
#include "runtime/process/replica/member.h"

namespace godwit::runtime::rebuild {
namespace {

constexpr int kIoprioWhoProcess = 1;  // IOPRIO_WHO_PROCESS

// The processors that both the snapshot and this host allow; where that is none, the host's choice stays.
Result<void> set_affinity(pid_t host_tid, const std::string& wanted, const std::string& name) {
  if (wanted.empty()) return {};
  unsigned char allowed[1024] = {};
  const long size = ::syscall(SYS_sched_getaffinity, host_tid, sizeof allowed, allowed);
  if (size < 0) return fail("read the affinity of", name);
  unsigned char mask[1024] = {};
  bool any = false;
  for (size_t i = 0; i < static_cast<size_t>(size) && i < wanted.size(); i++) {
    mask[i] = static_cast<unsigned char>(allowed[i] & static_cast<unsigned char>(wanted[i]));
    any |= mask[i] != 0;
  }
  if (!any || std::memcmp(mask, allowed, static_cast<size_t>(size)) == 0) return {};
  if (::syscall(SYS_sched_setaffinity, host_tid, size, mask) < 0) return fail("set the affinity of", name);
  return {};
}

}  // namespace

Result<void> set_scheduling(pid_t host_tid, const model::Thread& wanted) {
  const std::string name = "thread " + std::to_string(wanted.tid());
  const auto policy = static_cast<int>(wanted.scheduling_policy());
  const sched_param parameter{.sched_priority = wanted.scheduling_priority()};
  if (policy != SCHED_OTHER && ::sched_setscheduler(host_tid, policy, &parameter) < 0) {
    return fail("set the scheduling policy of", name);
  }
  if (::setpriority(PRIO_PROCESS, static_cast<id_t>(host_tid), wanted.nice()) < 0) {
    return fail("set the nice value of", name);
  }
  if (wanted.io_priority() != 0 &&
      ::syscall(SYS_ioprio_set, kIoprioWhoProcess, host_tid, wanted.io_priority()) < 0) {
    return fail("set the I/O priority of", name);
  }
  return set_affinity(host_tid, wanted.affinity(), name);
}

Result<void> set_oom_score(pid_t host_pid, int32_t score) {
  return write_file("/proc/" + std::to_string(host_pid) + "/oom_score_adj", std::to_string(score));
}

}  // namespace godwit::runtime::rebuild
