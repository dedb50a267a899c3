#include "runtime/memory/pagemap.h"

#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <bit>
#include <span>

#include "runtime/kernel/features.h"
#include "runtime/memory/page_batch.h"
#include "runtime/memory/process_memory.h"

namespace godwit::runtime {
namespace {

using namespace uapi;  // NOLINT: names of this folder's own

constexpr size_t kFoundMax = 4096;
constexpr size_t kEntriesMax = 16384;

// Of anonymous memory: nothing there but zeroes.
bool is_absent(uint64_t categories) {
  return (categories & (kPagePresent | kPageSwapped)) == 0 || (categories & kPageZero) != 0;
}

// Where a private page of a file was dropped while it was protected, the kernel leaves a marker in the page
// table that looks like a swapped page (with a userfaultfd of ours, or of a tracker that went). Its type is
// one of the highest, which no swap device can have (30 on Debian's 6.1, 31 on 6.12 and 6.18), shared with
// entries of pages that are just being moved; those say the frame where a marker has a few bits (swapops.h).
bool is_marker(uint64_t entry) {
  constexpr uint64_t kTypeBits = 5;
  constexpr uint64_t kDeviceTypes = 23;  // at the least
  constexpr uint64_t kMarkerMax = 7;
  const uint64_t type = entry & ((1U << kTypeBits) - 1);
  return (entry & kEntrySwapped) != 0 && type >= kDeviceTypes &&
         (entry & kEntryFrame) >> kTypeBits <= kMarkerMax;
}

// The frame of the page of zeroes: that of a page of our own that was read, but never written.
Result<uint64_t> find_zero_frame() {
  void* page = ::mmap(nullptr, kPageSize, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (page == MAP_FAILED) return fail("map", "a page of zeroes");
  (void)*static_cast<volatile char*>(page);
  uint64_t entry = 0;
  const auto map = open_file("/proc/self/pagemap", O_RDONLY);
  const auto where = static_cast<off_t>(std::bit_cast<uint64_t>(page) / kPageSize * sizeof entry);
  const bool got = map.has_value() &&
                   ::pread(map->get(), &entry, sizeof entry, where) == static_cast<ssize_t>(sizeof entry);
  ::munmap(page, kPageSize);
  if (!got || (entry & kEntryFrame) == 0)
    return refuse("read page frames in", "/proc/self/pagemap", "it needs CAP_SYS_ADMIN: run as root");
  return entry & kEntryFrame;
}

}  // namespace

PageClass page_class(const Vma& vma) {
  if (vma.shared) return PageClass::kShared;
  return vma.inode != 0 ? PageClass::kPrivateFile : PageClass::kAnonymous;
}

Result<Pagemap> Pagemap::open(pid_t pid) {
  GODWIT_ASSIGN(Fd fd, open_file("/proc/" + std::to_string(pid) + "/pagemap", O_RDONLY));
  Pagemap pagemap(std::move(fd), pid);
  if (has_pagemap_scan()) {
    pagemap.found_.resize(kFoundMax);
    return pagemap;
  }
  static const Result<uint64_t> zero_frame = find_zero_frame();
  GODWIT_ASSIGN(pagemap.zero_frame_, zero_frame);
  GODWIT_ASSIGN(pagemap.page_flags_, open_file("/proc/kpageflags", O_RDONLY));
  return pagemap;
}

Result<Pagemap> Pagemap::duplicate() const {
  GODWIT_ASSIGN(Fd fd, godwit::duplicate(fd_.get()));
  Pagemap copy(std::move(fd), pid_);
  copy.found_.resize(found_.size());
  copy.zero_frame_ = zero_frame_;
  if (page_flags_.valid()) {
    GODWIT_ASSIGN(copy.page_flags_, godwit::duplicate(page_flags_.get()));
  }
  return copy;
}

bool Pagemap::alive() const {
  uint64_t entry = 0;
  return ::pread(fd_.get(), &entry, sizeof entry, 0) == static_cast<ssize_t>(sizeof entry);
}

// The huge page of zeroes has a frame of its own, and the kernel takes it for a file's.
bool Pagemap::is_zero_frame(uint64_t frame) const {
  constexpr uint64_t kZeroPage = uint64_t{1} << 24;  // KPF_ZERO_PAGE
  uint64_t flags = 0;
  const auto where = static_cast<off_t>(frame * sizeof flags);
  return ::pread(page_flags_.get(), &flags, sizeof flags, where) == static_cast<ssize_t>(sizeof flags) &&
         (flags & kZeroPage) != 0;
}

// What PAGEMAP_SCAN would say of the page.
uint64_t Pagemap::categories_of(uint64_t entry, PageClass kind) const {
  if ((entry & (kEntryPresent | kEntrySwapped)) == 0) return 0;
  uint64_t categories = (entry & kEntryPresent) != 0 ? kPagePresent : kPageSwapped;
  if ((entry & kEntryProtected) == 0) categories |= kPageWritten;
  if ((entry & kEntryFile) != 0) categories |= kPageFile;
  const uint64_t frame = entry & kEntryFrame;
  if ((entry & kEntryPresent) != 0 &&
      (frame == zero_frame_ ||
       (kind == PageClass::kAnonymous && (entry & kEntryFile) != 0 && is_zero_frame(frame))))
    categories |= kPageZero;
  return categories;
}

bool Pagemap::is_populated(uint64_t entry, PageClass kind) const {
  if ((entry & (kEntryPresent | kEntrySwapped)) == 0) return false;
  if (!found_.empty()) return true;  // asked for by a scan
  const uint64_t categories = categories_of(entry, kind);
  if (kind == PageClass::kPrivateFile) return (categories & kPageFile) == 0 && !is_marker(entry);
  return (categories & kPageZero) == 0;
}

// visit(address, entries): as many as were read at once.
template <typename Visit>
Result<void> Pagemap::read_entries(Range range, Visit visit) {
  entries_.resize(kEntriesMax);
  for (uint64_t at = range.start; at < range.end;) {
    const uint64_t count = std::min<uint64_t>(kEntriesMax, (range.end - at) / kPageSize);
    const ssize_t got = ::pread(fd_.get(), entries_.data(), count * sizeof(uint64_t),
                                static_cast<off_t>(at / kPageSize * sizeof(uint64_t)));
    if (got < 0 && errno == EINTR) continue;
    if (got < static_cast<ssize_t>(sizeof(uint64_t)))
      return fail("read the pagemap of", describe(pid_, range), got < 0 ? errno : ESRCH);
    const auto whole = static_cast<size_t>(got) / sizeof(uint64_t);
    visit(at, std::span<const uint64_t>(entries_).first(whole));
    at += whole * kPageSize;
  }
  return {};
}

// PAGEMAP_SCAN in user space.
template <typename Visit>
Result<void> Pagemap::scan_by_reading(Range range, const Query& query, uint64_t& done, Visit visit) {
  if (query.flags != 0)
    return fail("protect the pages of", describe(pid_, range), EOPNOTSUPP, "PAGEMAP_SCAN needs Linux 6.7");
  Range area{0, 0};
  uint64_t shown = 0;
  GODWIT_TRY(read_entries(range, [&](uint64_t at, std::span<const uint64_t> found) {
    for (const uint64_t entry : found) {
      const uint64_t categories = categories_of(entry, query.kind);
      const uint64_t compared = categories ^ query.inverted;
      const bool matches =
          (compared & query.all_of) == query.all_of && (query.any_of == 0 || (compared & query.any_of) != 0);
      if (matches && area.end == at && shown == (categories & query.show)) {
        area.end = at + kPageSize;
      } else if (matches) {
        if (area.size() != 0) visit(area, shown);
        area = {at, at + kPageSize};
        shown = categories & query.show;
      }
      at += kPageSize;
    }
  }));
  if (area.size() != 0) visit(area, shown);
  done = range.end;
  return {};
}

template <typename Visit>
Result<void> Pagemap::scan(Range range, const Query& query, uint64_t& done, Visit visit) {
  if (found_.empty()) return scan_by_reading(range, query, done, visit);
  PagemapScan request{};
  request.size = sizeof request;
  request.flags = query.flags;
  request.end = range.end;
  request.vec = reinterpret_cast<uint64_t>(found_.data());
  request.vec_len = found_.size();
  request.category_inverted = query.inverted;
  request.category_mask = query.all_of;
  request.category_anyof_mask = query.any_of;
  request.return_mask = query.show;
  done = range.start;
  while (done < range.end) {
    request.start = done;
    const int count = ::ioctl(fd_.get(), kPagemapScan, &request);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return fail("scan the pages of", describe(pid_, {done, range.end}));
    for (int i = 0; i < count; ++i) {
      const PageRegion& region = found_[static_cast<size_t>(i)];
      visit(Range{region.start, region.end}, region.categories);
    }
    // walk_end may be that of an earlier step of the same walk: it counts only where the vector was full.
    if (static_cast<size_t>(count) < found_.size()) break;
    const uint64_t reached = std::max<uint64_t>(request.walk_end, found_.back().end);
    if (reached <= done) return refuse("scan the pages of", describe(pid_, range), "the walk stands still");
    done = std::min(reached, range.end);
  }
  done = range.end;
  return {};
}

Result<Ranges> Pagemap::real_swap(Range range) {
  Ranges pages;
  GODWIT_TRY(read_entries(range, [&](uint64_t at, std::span<const uint64_t> found) {
    for (const uint64_t entry : found) {
      if (!is_marker(entry)) append_range(pages, {at, at + kPageSize});
      at += kPageSize;
    }
  }));
  return pages;
}

Result<void> Pagemap::file_pages(Range range, uint64_t flags, uint64_t& done, Ranges& populated) {
  const Query query{.kind = PageClass::kPrivateFile,
                    .flags = flags,
                    .inverted = kPageFile,
                    .all_of = kPageFile,
                    .any_of = kPagePresent | kPageSwapped,
                    .show = kPagePresent | kPageSwapped};
  Ranges found;
  Ranges swapped;  // asked for afterwards: the walk may be using the buffer
  GODWIT_TRY(scan(range, query, done, [&](Range pages, uint64_t categories) {
    ((categories & kPageSwapped) == 0 ? found : swapped).push_back(pages);
  }));
  for (const Range& pages : swapped) {
    GODWIT_ASSIGN(const Ranges real, real_swap(pages));
    found.insert(found.end(), real.begin(), real.end());
  }
  normalize(found);
  for (const Range& pages : found) append_range(populated, pages);
  return {};
}

Result<void> Pagemap::populated(Range range, PageClass kind, Ranges& pages, bool protect) {
  const uint64_t flags = protect ? kScanWriteProtectMatching | kScanCheckAsync : 0;
  uint64_t done = 0;
  if (kind == PageClass::kPrivateFile) return file_pages(range, flags, done, pages);
  const Query query{.kind = kind, .flags = flags, .any_of = kPagePresent | kPageSwapped, .show = kPageZero};
  return scan(range, query, done, [&](Range found, uint64_t categories) {
    if ((categories & kPageZero) == 0) append_range(pages, found);
  });
}

Result<void> Pagemap::take_written(Range range, PageClass kind, Ranges& pages, uint64_t& done) {
  Query query{.kind = kind,
              .flags = kScanWriteProtectMatching | kScanCheckAsync,
              .all_of = kPageWritten,
              .show = kPageWritten};
  if (kind == PageClass::kShared) return take_written_shared(range, query, pages, done);
  query.any_of = kPagePresent | kPageSwapped;
  if (kind == PageClass::kPrivateFile) {
    query.inverted = kPageFile;
    query.all_of |= kPageFile;
  }
  return scan(range, query, done, [&](Range found, uint64_t) { append_range(pages, found); });
}

// Where a shared page has no entry it may have had one, through which it was written: entries go (memory
// pressure, MADV_DONTNEED), the page stays. Protecting puts a marker there, so that it is said only once.
Result<void> Pagemap::take_written_shared(Range range, Query query, Ranges& pages, uint64_t& done) {
  Ranges all;
  const auto add = [&](Range found, uint64_t) { all.push_back(found); };
  Result<void> outcome = scan(range, query, done, add);
  if (outcome) {
    query.inverted = query.all_of = query.show = kPagePresent | kPageSwapped;
    outcome = scan(range, query, done, add);
  }
  normalize(all);
  for (const Range& found : all) append_range(pages, found);
  return outcome;
}

Result<void> Pagemap::absent(Range range, PageClass kind, Ranges& pages) {
  uint64_t done = 0;
  if (kind == PageClass::kPrivateFile) {
    Ranges populated;
    GODWIT_TRY(file_pages(range, 0, done, populated));
    for (const Range& hole : subtract({range}, populated)) append_range(pages, hole);
    return {};
  }
  const Query query{.kind = kind,
                    .inverted = kPagePresent,
                    .any_of = kPagePresent | kPageZero,
                    .show = kPagePresent | kPageSwapped | kPageZero};
  return scan(range, query, done, [&](Range found, uint64_t categories) {
    if (is_absent(categories)) append_range(pages, found);
  });
}

// Written, or not present: what is clean and present is passed without a word.
Result<void> Pagemap::look_written(Range range, PageClass kind, uint64_t flags, Ranges& written,
                                   Ranges& missing) {
  uint64_t done = 0;
  const Query query{.kind = kind,
                    .flags = flags,
                    .inverted = kPagePresent,
                    .any_of = kPageWritten | kPagePresent | kPageZero,
                    .show = kPageWritten | kPagePresent | kPageSwapped | kPageZero};
  return scan(range, query, done, [&](Range found, uint64_t categories) {
    const bool no_entry = (categories & (kPagePresent | kPageSwapped)) == 0;
    if (kind == PageClass::kShared ? no_entry || (categories & kPageWritten) != 0
                                   : !is_absent(categories) && (categories & kPageWritten) != 0)
      append_range(written, found);
    else if (kind != PageClass::kShared && is_absent(categories))
      append_range(missing, found);
  });
}

Result<void> Pagemap::written_and_absent(Range range, PageClass kind, Ranges& written, Ranges& missing) {
  if (kind != PageClass::kPrivateFile) return look_written(range, kind, kScanCheckAsync, written, missing);
  uint64_t done = 0;
  Ranges populated;
  GODWIT_TRY(file_pages(range, kScanCheckAsync, done, populated));
  for (const Range& hole : subtract({range}, populated)) append_range(missing, hole);
  for (const Range& pages : populated) append_range(written, pages);
  return {};
}

Result<void> Pagemap::unprotected(Range range, PageClass kind, Ranges& pages) {
  if (kind == PageClass::kShared) {
    Ranges none;
    return look_written(range, kind, 0, pages, none);
  }
  uint64_t done = 0;
  const Query query{
      .kind = kind, .all_of = kPageWritten, .any_of = kPagePresent | kPageSwapped, .show = kPageZero};
  return scan(range, query, done, [&](Range found, uint64_t categories) {
    if ((categories & kPageZero) == 0) append_range(pages, found);
  });
}

Result<void> Pagemap::unprotected_and_absent(Range range, PageClass kind, Ranges& pages, Ranges& missing) {
  return look_written(range, kind, 0, pages, missing);
}

Result<void> Pagemap::visit_entries(Range range, PageClass kind, const VisitEntry& visit) {
  const auto visit_all = [&](uint64_t at, std::span<const uint64_t> found) {
    for (const uint64_t entry : found) {
      if (is_populated(entry, kind)) visit(at, entry);
      at += kPageSize;
    }
  };
  if (found_.empty()) return read_entries(range, visit_all);
  Ranges pages;
  GODWIT_TRY(populated(range, kind, pages));
  for (const Range& part : pages) GODWIT_TRY(read_entries(part, visit_all));
  return {};
}

}  // namespace godwit::runtime
