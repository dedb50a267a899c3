#include "runtime/memory/shared_stamps.h"

#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>

#include "base/clock.h"
#include "base/fd.h"
#include "runtime/memory/page_batch.h"

namespace godwit::runtime {
namespace {

int64_t nanoseconds(const timespec& time) {
  return time.tv_sec * 1'000'000'000 + time.tv_nsec;
}

bool same(const timespec& one, const timespec& other) {
  return one.tv_sec == other.tv_sec && one.tv_nsec == other.tv_nsec;
}

// Tries it: a tick after it was made, an object is written to and mapped.
bool try_times() {
  const Fd fd(::memfd_create("times", MFD_CLOEXEC));
  struct stat before {};
  struct stat after {};
  if (!fd.valid() || ::ftruncate(fd.get(), kPageSize) != 0 || ::fstat(fd.get(), &before) != 0) return false;
  const timespec a_while{.tv_sec = 0, .tv_nsec = 1'000'000};
  constexpr int kTicksMs = 50;
  for (int i = 0; i < kTicksMs && wall_clock_ns() <= nanoseconds(before.st_ctim); ++i)
    ::nanosleep(&a_while, nullptr);
  if (::pwrite(fd.get(), "x", 1, 0) != 1) return false;
  void* const mapped = ::mmap(nullptr, kPageSize, PROT_READ, MAP_SHARED, fd.get(), 0);
  if (mapped == MAP_FAILED) return false;
  ::munmap(mapped, kPageSize);
  return ::fstat(fd.get(), &after) == 0 && !same(before.st_mtim, after.st_mtim) &&
         !same(before.st_ctim, after.st_ctim) && !same(before.st_atim, after.st_atim);
}

bool kernel_keeps_times() {
  static const bool kept = try_times();
  return kept;
}

}  // namespace

void SharedStamps::prepare() {
  (void)kernel_keeps_times();
}

// The clock that the kernel stamps files by.
int64_t wall_clock_ns() {
  return clock_ns(CLOCK_REALTIME_COARSE);
}

Result<SharedStamps> SharedStamps::read(int fd, int64_t begun_ns) {
  struct stat status {};
  if (::fstat(fd, &status) != 0) return fail("look at shared memory", "fd " + std::to_string(fd));
  SharedStamps stamps;
  stamps.accessed_ns_ = nanoseconds(status.st_atim);
  stamps.modified_ns_ = nanoseconds(status.st_mtim);
  stamps.changed_ns_ = nanoseconds(status.st_ctim);
  stamps.blocks_ = status.st_blocks;
  const int64_t last = std::max({stamps.accessed_ns_, stamps.modified_ns_, stamps.changed_ns_});
  stamps.settled_ = kernel_keeps_times() && last < begun_ns - kSettleNs;
  return stamps;
}

bool SharedStamps::prove_untouched(const SharedStamps& now) const {
  return settled_ && accessed_ns_ == now.accessed_ns_ && modified_ns_ == now.modified_ns_ &&
         changed_ns_ == now.changed_ns_;
}

}  // namespace godwit::runtime
