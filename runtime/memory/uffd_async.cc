// Dirty tracking by userfaultfd(2) with UFFD_FEATURE_WP_ASYNC: the kernel resolves write-protection faults by
// itself, and the page tables remember them (Documentation/admin-guide/mm/userfaultfd.rst). PAGEMAP_SCAN
// reads and protects in one step; with CHECK_WPASYNC it fails on an unregistered mapping with EPERM.
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>

#include <utility>

#include "runtime/kernel/uapi.h"
#include "runtime/memory/uffd_tracker.h"

namespace godwit::runtime {
namespace {

constexpr uint64_t kFeatures = UFFD_FEATURE_PAGEFAULT_FLAG_WP | UFFD_FEATURE_WP_UNPOPULATED |
                               UFFD_FEATURE_WP_HUGETLBFS_SHMEM | UFFD_FEATURE_WP_ASYNC;

class UffdAsyncTracker final : public UffdTracker {
 public:
  UffdAsyncTracker(pid_t pid, Fd fd, Pagemap pagemap) : UffdTracker(pid, std::move(fd), std::move(pagemap)) {}
  [[nodiscard]] const char* name() const override { return "uffd"; }

 private:
  [[nodiscard]] bool can_register(const Vma&) const override { return true; }
  Result<bool> arm(Range range, PageClass kind, Ranges& populated) override;
  Result<void> take(Range range, PageClass kind, Ranges& written, Ranges& replaced) override;
  Result<bool> look(Pagemap& pagemap, Range range, PageClass kind, Ranges& written,
                    Ranges& absent) const override;
};

// False for EPERM: not registered.
Result<bool> registered(Result<void> outcome) {
  if (outcome) return true;
  if (outcome.error().code == EPERM) return false;
  return std::unexpected(std::move(outcome).error());
}

Result<bool> UffdAsyncTracker::arm(Range range, PageClass kind, Ranges& populated) {
  if (kind != PageClass::kShared) return registered(pagemap_.populated(range, kind, populated, true));
  Ranges ignored;
  uint64_t done = 0;
  return registered(pagemap_.take_written(range, kind, ignored, done));
}

Result<void> UffdAsyncTracker::take(Range range, PageClass kind, Ranges& written, Ranges& replaced) {
  uint64_t done = range.end;
  GODWIT_ASSIGN(const bool whole, registered(pagemap_.take_written(range, kind, written, done)));
  // The failing call may have protected pages that it did not name: the whole rest counts as replaced.
  if (!whole) append_range(replaced, {done, range.end});
  return {};
}

Result<bool> UffdAsyncTracker::look(Pagemap& pagemap, Range range, PageClass kind, Ranges& written,
                                    Ranges& absent) const {
  return registered(pagemap.written_and_absent(range, kind, written, absent));
}

}  // namespace

Result<std::unique_ptr<DirtyTracker>> make_uffd_async_tracker(pid_t pid, Fd userfaultfd) {
  uffdio_api api{};
  api.api = UFFD_API;
  api.features = kFeatures;
  if (::ioctl(userfaultfd.get(), UFFDIO_API, &api) != 0)
    return fail("set up userfaultfd for", "pid " + std::to_string(pid), errno,
                "asynchronous write-protection needs Linux 6.7 or newer with CONFIG_PTE_MARKER_UFFD_WP");
  GODWIT_ASSIGN(Pagemap pagemap, Pagemap::open(pid));
  return std::make_unique<UffdAsyncTracker>(pid, std::move(userfaultfd), std::move(pagemap));
}

}  // namespace godwit::runtime
