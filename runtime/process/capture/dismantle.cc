// The end of processes that have moved.
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>

#include "base/clock.h"
#include "runtime/memory/address_space.h"
#include "runtime/process/capture/session.h"

namespace godwit::runtime {
namespace {

constexpr uint64_t kSliceBytes = uint64_t{16} << 20;
constexpr int64_t kRestPerWork = 2;
constexpr int64_t kRestUsMax = 2'000'000;  // of one process, in all
constexpr int64_t kNoticeableUs = 500;

}  // namespace

Result<void> CaptureSession::dismantle() {
  if (!frozen_) return refuse("dismantle", "the container", "it runs");
  dismantled_ = true;
  for (const auto& member : members_)
    for (const auto& [tid, puppet] : member->threads) GODWIT_TRY(puppet->kill_with_tracer(true));
  if (options_.thaw_cgroup) GODWIT_TRY(options_.thaw_cgroup());
  cgroup_frozen_ = false;
  for (const auto& member : members_) GODWIT_TRY(give_memory_back(*member));
  return {};
}

// By the process itself, since no other may drop its pages (process_madvise(2)). Mappings that cannot be
// dropped stay until the process ends. Rests between the slices let others get on.
Result<void> CaptureSession::give_memory_back(const Member& member) {
  GODWIT_ASSIGN(const auto mappings, read_maps(member.process.host_pid));
  int64_t rest_left_us = kRestUsMax;
  for (const Vma& vma : mappings) {
    if (vma.shared || !vma.writable || member.scratch.contains(vma.start)) continue;
    for (uint64_t start = vma.start; start < vma.end; start += kSliceBytes) {
      const int64_t begun_us = monotonic_us();
      CallBatch batch;
      batch.call_may_fail(SYS_madvise, {start, std::min(kSliceBytes, vma.end - start), MADV_DONTNEED});
      GODWIT_TRY(member.leader()->run(batch));
      const int64_t worked_us = monotonic_us() - begun_us;
      if (worked_us < kNoticeableUs || rest_left_us <= 0) continue;
      const int64_t rest_us = std::min(worked_us * kRestPerWork, rest_left_us);
      rest_left_us -= rest_us;
      ::usleep(static_cast<useconds_t>(rest_us));
    }
  }
  return {};
}

}  // namespace godwit::runtime
