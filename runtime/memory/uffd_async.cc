// Dirty tracking by userfaultfd(2) with UFFD_FEATURE_WP_ASYNC: the kernel resolves write-protection faults by
// itself, and the page tables remember them (Documentation/admin-guide/mm/userfaultfd.rst).
//
// Registration belongs to the mapping, not to the address: what is unmapped and mapped again is unregistered,
// and PAGEMAP_SCAN with CHECK_WPASYNC fails on it with EPERM. That is how replaced mappings show themselves.
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>

#include <algorithm>
#include <array>
#include <utility>

#include "runtime/kernel/uapi.h"
#include "runtime/memory/dirty_tracker.h"
#include "runtime/memory/page_batch.h"
#include "runtime/memory/pagemap.h"

namespace godwit::runtime {
namespace {

constexpr uint64_t kFeatures = UFFD_FEATURE_PAGEFAULT_FLAG_WP | UFFD_FEATURE_WP_UNPOPULATED |
                               UFFD_FEATURE_WP_HUGETLBFS_SHMEM | UFFD_FEATURE_WP_ASYNC;

// A part of a mapping that is registered, or that can never be written and hence need not be.
struct Area {
  Range range;
  PageClass kind = PageClass::kAnonymous;
  bool registered = false;
};

// A shared mapping that may never become writable (opened read-only, sealed) cannot be written either.
bool never_written(const Vma& vma) {
  return page_class(vma) == PageClass::kShared && !vma.writable;
}

class UffdAsyncTracker final : public DirtyTracker {
 public:
  UffdAsyncTracker(pid_t pid, Fd fd, Pagemap pagemap)
      : pid_(pid), fd_(std::move(fd)), pagemap_(std::move(pagemap)) {}
  [[nodiscard]] const char* name() const override { return "userfaultfd"; }
  Result<Followed> follow(const std::vector<Vma>& vmas) override;
  Result<Ranges> collect(Ranges& replaced) override;
  Result<LastRound> collect_last(const std::vector<Vma>& vmas) override;
  Result<void> stop() override;

 private:
  Result<void> check_alive() const;
  Result<std::vector<Area>> cut_at_mappings() const;
  // Appends to `known` what is followed of the mapping, to `fresh` what is not.
  void split(const Vma& vma, size_t& next, std::vector<Area>& known, Ranges& fresh) const;
  Result<Ranges> register_anonymous() const;
  Result<bool> register_exactly(Range range, const Vma& vma) const;
  Result<bool> enrol(Range range, const Vma& vma, bool registered, Followed& followed);
  [[nodiscard]] std::string describe() const { return "pid " + std::to_string(pid_); }

  pid_t pid_;
  Fd fd_;
  Pagemap pagemap_;
  std::vector<Area> areas_;  // ascending
};

// The pagemap of a dead address space is simply empty; only userfaultfd says that it is gone. Unprotecting a
// page that nobody maps changes nothing: ENOENT from a living one.
Result<void> UffdAsyncTracker::check_alive() const {
  uffdio_writeprotect request{};
  request.range = {.start = 0, .len = kPageSize};
  if (::ioctl(fd_.get(), UFFDIO_WRITEPROTECT, &request) == 0 || errno != ESRCH) return {};
  return fail("track the memory of", describe(), ESRCH, "it ended or executed another program");
}

void UffdAsyncTracker::split(const Vma& vma, size_t& next, std::vector<Area>& known, Ranges& fresh) const {
  uint64_t at = vma.start;
  while (next < areas_.size() && areas_[next].range.end <= vma.start) ++next;
  for (size_t i = next; i < areas_.size() && areas_[i].range.start < vma.end; ++i) {
    const Area& area = areas_[i];
    if (area.kind != page_class(vma)) continue;
    const Range common{std::max(area.range.start, vma.start), std::min(area.range.end, vma.end)};
    append_range(fresh, {at, common.start});
    known.push_back({common, area.kind, area.registered});
    at = common.end;
  }
  append_range(fresh, {at, vma.end});
}

bool is_anonymous(const Vma& vma) {
  return page_class(vma) == PageClass::kAnonymous && vma.name != "[vdso]" && vma.name != "[vsyscall]" &&
         !vma.name.starts_with("[vvar");
}

// Registers all anonymous mappings of the process, and returns where. Registering a part of a mapping splits
// it, and an mremap(2) of the whole would fail (EFAULT): the container would notice us. The mappings change
// while we look, so no border of theirs is named: one call takes everything between two mappings of another
// kind, gaps included, and what grows or moves there is registered whole. Where something of another kind has
// appeared meanwhile the call fails as a whole, and one looks again.
Result<Ranges> UffdAsyncTracker::register_anonymous() const {
  constexpr int kAttempts = 4;
  Ranges registered;
  for (int attempt = 0; attempt < kAttempts; ++attempt) {
    registered.clear();
    bool complete = true;
    GODWIT_ASSIGN(const std::vector<Vma> vmas, read_maps(pid_));
    uint64_t start = kPageSize;  // the end of the mapping of another kind before
    for (auto first = vmas.begin(); first != vmas.end();) {
      if (!is_anonymous(*first)) {
        start = first++->end;
        continue;
      }
      const auto last = std::find_if_not(first, vmas.end(), is_anonymous);
      const bool open = last == vmas.end() || last->name == "[vsyscall]";  // that lies beyond user space
      const Range between{start, open ? std::prev(last)->end : last->start};
      uffdio_register request{};
      request.range = {.start = between.start, .len = between.size()};
      request.mode = UFFDIO_REGISTER_MODE_WP;
      if (::ioctl(fd_.get(), UFFDIO_REGISTER, &request) == 0)
        append_range(registered, between);
      else if (errno == EBUSY)
        return fail("track the memory of", describe(), EBUSY,
                    "the process uses userfaultfd itself: use another tracker");
      else
        complete = false;
      first = last;
    }
    if (complete) break;
  }
  return registered;
}

// For a mapping that is not anonymous. False: it cannot be registered (any more).
Result<bool> UffdAsyncTracker::register_exactly(Range range, const Vma& vma) const {
  uffdio_register request{};
  request.range = {.start = range.start, .len = range.size()};
  request.mode = UFFDIO_REGISTER_MODE_WP;
  if (::ioctl(fd_.get(), UFFDIO_REGISTER, &request) == 0) return true;
  const int code = errno;
  if (code == EBUSY)
    return fail("track the memory of", describe(), EBUSY,
                "the process uses userfaultfd itself: use another tracker");
  if (code == ENOMEM) GODWIT_TRY(check_alive());
  if (code == EINVAL || code == ENOENT || (code == EPERM && never_written(vma))) return false;
  return fail("register with userfaultfd", describe(), code);
}

// Protects one new range. False: the mapping changed under our hands; ask again next time.
Result<bool> UffdAsyncTracker::enrol(Range range, const Vma& vma, bool registered, Followed& followed) {
  const PageClass kind = page_class(vma);
  if (kind == PageClass::kShared) {
    if (!registered) return never_written(vma);
    Ranges ignored;
    uint64_t done = 0;
    auto armed = pagemap_.take_written(range, kind, ignored, done);
    if (!armed && armed.error().code != EPERM) return std::unexpected(std::move(armed).error());
    return armed.has_value();
  }
  Ranges pages;
  auto armed = pagemap_.populated(range, kind, pages, registered);
  if (!armed && armed.error().code != EPERM) return std::unexpected(std::move(armed).error());
  if (!armed) {
    // Replaced between the two calls: its pages are due, and it is not followed.
    pages.clear();
    GODWIT_TRY(pagemap_.populated(range, kind, pages, false));
  }
  for (const Range& found : pages) append_range(followed.populated, found);
  return registered && armed.has_value();
}

Result<DirtyTracker::Followed> UffdAsyncTracker::follow(const std::vector<Vma>& vmas) {
  GODWIT_TRY(check_alive());
  GODWIT_ASSIGN(const Ranges anonymous, register_anonymous());
  Followed followed;
  std::vector<Area> areas;
  areas.reserve(vmas.size());
  size_t next = 0;
  for (const Vma& vma : vmas) {
    Ranges fresh;
    const size_t first = areas.size();
    split(vma, next, areas, fresh);
    for (const Range& range : fresh) {
      bool registered = total_size(intersect(anonymous, {range})) == range.size();
      if (page_class(vma) != PageClass::kAnonymous) {
        GODWIT_ASSIGN(registered, register_exactly(range, vma));
      }
      GODWIT_ASSIGN(const bool enrolled, enrol(range, vma, registered, followed));
      append_range(followed.areas, range);
      if (enrolled) areas.push_back({range, page_class(vma), registered});
    }
    std::ranges::sort(areas.begin() + static_cast<ptrdiff_t>(first), areas.end(), {},
                      [](const Area& area) { return area.range.start; });
  }
  areas_ = std::move(areas);
  return followed;
}

// Cut at the borders of today's mappings, because a call that meets an unregistered mapping fails as a whole:
// a small mapping that was replaced in the midst of a large area shall not cost the area.
Result<std::vector<Area>> UffdAsyncTracker::cut_at_mappings() const {
  GODWIT_ASSIGN(const std::vector<Vma> vmas, read_maps(pid_));
  std::vector<Area> cut;
  size_t next = 0;
  for (const Area& area : areas_) {
    while (next < vmas.size() && vmas[next].end <= area.range.start) ++next;
    for (size_t i = next; i < vmas.size() && vmas[i].start < area.range.end; ++i)
      cut.push_back({{std::max(area.range.start, vmas[i].start), std::min(area.range.end, vmas[i].end)},
                     area.kind,
                     area.registered});
  }
  return cut;
}

Result<Ranges> UffdAsyncTracker::collect(Ranges& replaced) {
  GODWIT_TRY(check_alive());
  GODWIT_ASSIGN(const std::vector<Area> areas, cut_at_mappings());
  Ranges written;
  std::vector<Area> kept;
  kept.reserve(areas.size());
  for (const Area& area : areas) {
    uint64_t done = area.range.end;
    Result<void> taken;
    if (area.registered) taken = pagemap_.take_written(area.range, area.kind, written, done);
    if (!taken && taken.error().code != EPERM) return std::unexpected(std::move(taken).error());
    // The failing call may have protected pages that it did not name: the whole rest counts as replaced.
    if (!taken) append_range(replaced, {done, area.range.end});
    if (area.range.start < done) kept.push_back({{area.range.start, done}, area.kind, area.registered});
  }
  areas_ = std::move(kept);
  return written;
}

Result<DirtyTracker::LastRound> UffdAsyncTracker::collect_last(const std::vector<Vma>& vmas) {
  GODWIT_TRY(check_alive());
  LastRound last;
  size_t next = 0;
  for (const Vma& vma : vmas) {
    std::vector<Area> known;
    Ranges fresh;
    split(vma, next, known, fresh);
    for (const Area& area : known) {
      if (!area.registered) continue;
      LastRound found;
      auto scanned = pagemap_.written_and_absent(area.range, area.kind, found.written, found.absent);
      if (!scanned && scanned.error().code != EPERM) return std::unexpected(std::move(scanned).error());
      if (!scanned) {
        fresh.push_back(area.range);
        continue;
      }
      for (const Range& range : found.written) append_range(last.written, range);
      for (const Range& range : found.absent) append_range(last.absent, range);
    }
    normalize(fresh);
    for (const Range& range : fresh) append_range(last.unfollowed, range);
  }
  return last;
}

// The last descriptor: the kernel gives back all mappings in one step. One by one, an mremap(2) of the
// process that meets the border of what is still registered would fail (EFAULT).
Result<void> UffdAsyncTracker::stop() {
  areas_.clear();
  fd_.reset();
  return {};
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
