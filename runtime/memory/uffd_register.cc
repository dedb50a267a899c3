// Which mappings a userfaultfd(2) is registered for: all that can be, whole; see the top of uffd_tracker.h.
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <utility>

#include "base/fd.h"
#include "runtime/kernel/uapi.h"
#include "runtime/memory/page_batch.h"
#include "runtime/memory/uffd_tracker.h"

namespace godwit::runtime {
namespace {

// Above it no mapping can be without having been asked for by name (mmap(2), 5-level page tables).
constexpr uint64_t kUserSpaceEnd = 0x7ffffffff000;

// The kernel's own. They stay where they are.
bool is_kernel_mapping(const Vma& vma) {
  return vma.name == "[vdso]" || vma.name == "[vsyscall]" || vma.name.starts_with("[vvar");
}

// Below it nothing can be mapped, and a range that begins there is refused.
uint64_t lowest_address() {
  static const uint64_t lowest = [] {
    const auto text = read_file("/proc/sys/vm/mmap_min_addr");
    const uint64_t told = text ? std::strtoull(text->c_str(), nullptr, 10) : 0;
    return std::max<uint64_t>((told + kPageSize - 1) / kPageSize * kPageSize, kPageSize);
  }();
  return lowest;
}

// Whether a mapping that is moved (mremap(2)) leaves its protection behind: since Linux 6.13, and in stable
// versions before. Else it seems to be clean where it is registered anew. Tried with a page of our own.
bool try_move() {
  constexpr uint64_t kProtected = uint64_t{1} << 57;  // pagemap(5)
  const Fd fd(static_cast<int>(::syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | UFFD_USER_MODE_ONLY)));
  uffdio_api api{};
  api.api = UFFD_API;
  api.features = UFFD_FEATURE_PAGEFAULT_FLAG_WP;
  const auto pagemap = open_file("/proc/self/pagemap", O_RDONLY);
  if (!fd.valid() || !pagemap || ::ioctl(fd.get(), UFFDIO_API, &api) != 0) return false;
  constexpr int kPrivate = MAP_PRIVATE | MAP_ANONYMOUS;
  void* const page = ::mmap(nullptr, kPageSize, PROT_READ | PROT_WRITE, kPrivate | MAP_POPULATE, -1, 0);
  void* const place = ::mmap(nullptr, kPageSize, PROT_NONE, kPrivate, -1, 0);
  if (page == MAP_FAILED || place == MAP_FAILED) return false;
  uffdio_register watch{};
  watch.range = {.start = reinterpret_cast<uint64_t>(page), .len = kPageSize};
  watch.mode = UFFDIO_REGISTER_MODE_WP;
  uffdio_writeprotect protect{.range = watch.range, .mode = UFFDIO_WRITEPROTECT_MODE_WP};
  const auto is_protected = [&](void* at) {
    uint64_t entry = 0;
    const auto offset = static_cast<off_t>(reinterpret_cast<uint64_t>(at) / kPageSize * sizeof entry);
    const bool read = ::pread(pagemap->get(), &entry, sizeof entry, offset) == sizeof entry;
    return !read || (entry & kProtected) != 0;
  };
  bool lost = ::ioctl(fd.get(), UFFDIO_REGISTER, &watch) == 0 &&
              ::ioctl(fd.get(), UFFDIO_WRITEPROTECT, &protect) == 0 && is_protected(page);
  void* const moved = ::mremap(page, kPageSize, kPageSize, MREMAP_MAYMOVE | MREMAP_FIXED, place);
  lost = lost && moved != MAP_FAILED && !is_protected(moved);
  ::munmap(moved != MAP_FAILED ? moved : page, kPageSize);
  if (moved == MAP_FAILED) ::munmap(place, kPageSize);
  return lost;
}

bool moves_lose_protection() {
  static const bool lost = try_move();
  return lost;
}

}  // namespace

const UffdTracker::Refused* UffdTracker::find_refused(const Vma& vma) const {
  const auto found =
      std::ranges::lower_bound(refused_, vma.start, {}, [](const Refused& one) { return one.range.start; });
  const bool same =
      found != refused_.end() && found->range == Range{vma.start, vma.end} && found->inode == vma.inode;
  return same ? &*found : nullptr;
}

bool UffdTracker::is_border(const Vma& vma) const {
  return is_kernel_mapping(vma) || !can_register(vma) || find_refused(vma) != nullptr;
}

// What lies between two borders and holds a mapping.
Ranges UffdTracker::between_borders(const std::vector<Vma>& vmas) const {
  Ranges gaps;
  uint64_t start = lowest_address();
  bool mapped = false;
  for (const Vma& vma : vmas) {
    if (!is_border(vma)) {
      mapped = true;
      continue;
    }
    if (mapped && vma.start < kUserSpaceEnd) gaps.push_back({start, vma.start});
    if (vma.start >= kUserSpaceEnd) break;
    start = vma.end;
    mapped = false;
  }
  if (mapped && start < kUserSpaceEnd) gaps.push_back({start, kUserSpaceEnd});
  return gaps;
}

// maps does not show which mappings are refused: those that may never be written to (opened for reading only,
// or sealed), and those that may be dropped. smaps does, but walks page tables for it: it is read when a call
// has failed, and what it says is remembered.
Result<void> UffdTracker::learn_refused() {
  GODWIT_ASSIGN(const std::vector<Vma> vmas, read_smaps(pid_));
  refused_.clear();
  for (const Vma& vma : vmas) {
    const bool never_written = (vma.flags & vma_flag("mw")) == 0;
    if (never_written || (vma.flags & vma_flag("dp")) != 0)
      refused_.push_back({.range = {vma.start, vma.end}, .inode = vma.inode, .never_written = never_written});
  }
  return {};
}

// False: something in it is refused.
Result<bool> UffdTracker::register_gap(Range gap) const {
  uffdio_register request{};
  request.range = {.start = gap.start, .len = gap.size()};
  request.mode = UFFDIO_REGISTER_MODE_WP;
  if (::ioctl(fd_.get(), UFFDIO_REGISTER, &request) == 0) return true;
  const int code = errno;
  if (code == EBUSY)
    return fail("track the memory of", describe(), EBUSY,
                "the process uses userfaultfd itself: use another tracker");
  if (code == ENOMEM) GODWIT_TRY(check_alive());
  if (code == EPERM || code == EINVAL || code == ENOENT) return false;
  return fail("register with userfaultfd", describe(), code);
}

// Registers all mappings of the process that can be, and returns where; see the top of uffd_tracker.h. Then
// looks once more: a border that has given way to something else may have cut that in two, and the next
// attempt, which does not name this border, makes it whole again.
//
// On kernels where moved mappings would seem to be clean, what is followed is left alone: should it have been
// replaced since the last collect(), that must still show in the next one. The price is that a mapping which
// lies across the border of what was followed can be split for the length of a round.
Result<Ranges> UffdTracker::register_all() {
  constexpr int kAttempts = 8;
  Ranges followed;
  if (!moves_lose_protection())
    for (const Area& area : areas_) append_range(followed, area.range);
  Ranges registered;
  GODWIT_ASSIGN(std::vector<Vma> vmas, read_maps(pid_));
  Ranges gaps = between_borders(vmas);
  for (int attempt = 0; attempt < kAttempts; ++attempt) {
    registered.clear();
    bool complete = true;
    for (const Range& gap : subtract(gaps, followed)) {
      bool mapped = false;
      for_each_part(gap, vmas, [&](Range) { mapped = true; });
      if (!mapped) continue;
      GODWIT_ASSIGN(const bool taken, register_gap(gap));
      if (taken) append_range(registered, gap);
      complete = complete && taken;
    }
    if (!complete) GODWIT_TRY(learn_refused());
    GODWIT_ASSIGN(vmas, read_maps(pid_));
    const Ranges before = std::exchange(gaps, between_borders(vmas));
    if (complete && gaps == before) break;
  }
  return registered;
}

UffdTracker::Watch UffdTracker::watch_of(const Vma& vma, Range range, const Ranges& registered) const {
  if (!can_register(vma)) return Watch::kCompared;
  if (const Refused* const refused = find_refused(vma); refused != nullptr)
    return refused->never_written ? Watch::kNeverWritten : Watch::kCompared;
  const bool covered = total_size(intersect(registered, {range})) == range.size();
  return covered ? Watch::kRegistered : Watch::kInvalid;
}

}  // namespace godwit::runtime
