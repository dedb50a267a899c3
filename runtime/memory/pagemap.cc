#include "runtime/memory/pagemap.h"

#include <fcntl.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <array>

#include "base/breather.h"
#include "runtime/memory/page_batch.h"

namespace godwit::runtime {
namespace {

using namespace uapi;  // NOLINT: names of this folder's own

constexpr uint64_t kSliceBytes = uint64_t{16} << 20;
constexpr double kRestPerWork = 1.0;
constexpr int64_t kRestUsMax = 1'000'000;

std::string describe(pid_t pid, Range range) {
  std::array<char, 96> text;
  std::snprintf(text.data(), text.size(), "pid %d %lx-%lx", pid, range.start, range.end);
  return text.data();
}

// Of anonymous memory: nothing there but zeroes.
bool is_absent(uint64_t categories) {
  return (categories & (kPagePresent | kPageSwapped)) == 0 || (categories & kPageZero) != 0;
}

}  // namespace

PageClass page_class(const Vma& vma) {
  if (vma.shared) return PageClass::kShared;
  return vma.inode != 0 ? PageClass::kPrivateFile : PageClass::kAnonymous;
}

Result<Pagemap> Pagemap::open(pid_t pid) {
  GODWIT_ASSIGN(Fd fd, open_file("/proc/" + std::to_string(pid) + "/pagemap", O_RDONLY));
  return Pagemap(std::move(fd), pid);
}

// Protecting is done in slices with rests between them. A store to a page that was protected is slow once,
// and the process's processors must be told of each page: all at once, a busy process does nothing else for a
// while.
template <typename Visit>
Result<void> Pagemap::scan(Range range, const Query& query, uint64_t& done, Visit visit) {
  if ((query.flags & kScanWriteProtectMatching) == 0) return scan_at_once(range, query, done, visit);
  Breather breather(kRestPerWork, kRestUsMax);
  for (done = range.start; done < range.end; breather.breathe()) {
    const uint64_t end = std::min(range.end, (done / kSliceBytes + 1) * kSliceBytes);
    GODWIT_TRY(scan_at_once({done, end}, query, done, visit));
  }
  return {};
}

template <typename Visit>
Result<void> Pagemap::scan_at_once(Range range, const Query& query, uint64_t& done, Visit visit) {
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

// Where a private page of a file was dropped while it was protected, the kernel leaves a marker in the page
// table that looks like a swapped page. Its swap type is the highest of all, which no swap device can have.
Result<Ranges> Pagemap::real_swap(Range range) const {
  constexpr uint64_t kSwap = uint64_t{1} << 62;  // not so any more: it came back meanwhile
  constexpr uint64_t kTypeMask = 31;
  constexpr uint64_t kMarker = 31;
  Ranges pages;
  std::array<uint64_t, 512> entries;
  for (uint64_t at = range.start; at < range.end;) {
    const uint64_t count = std::min<uint64_t>(entries.size(), (range.end - at) / kPageSize);
    const ssize_t got = ::pread(fd_.get(), entries.data(), count * sizeof(uint64_t),
                                static_cast<off_t>(at / kPageSize * sizeof(uint64_t)));
    if (got < static_cast<ssize_t>(sizeof(uint64_t)))
      return fail("read the pagemap of", describe(pid_, range), got < 0 ? errno : ESRCH);
    for (size_t i = 0; i < static_cast<size_t>(got) / sizeof(uint64_t); ++i, at += kPageSize)
      if ((entries[i] & kSwap) == 0 || (entries[i] & kTypeMask) != kMarker)
        append_range(pages, {at, at + kPageSize});
  }
  return pages;
}

Result<void> Pagemap::file_pages(Range range, uint64_t flags, uint64_t& done, Ranges& populated) {
  const Query query{.flags = flags,
                    .inverted = kPageFile,
                    .all_of = kPageFile,
                    .any_of = kPagePresent | kPageSwapped,
                    .show = kPagePresent | kPageSwapped};
  Result<void> outcome;
  GODWIT_TRY(scan(range, query, done, [&](Range pages, uint64_t categories) {
    if ((categories & kPageSwapped) == 0) return append_range(populated, pages);
    auto real = real_swap(pages);
    if (!real) {
      outcome = std::unexpected(std::move(real).error());
      return;
    }
    for (const Range& part : *real) append_range(populated, part);
  }));
  return outcome;
}

Result<void> Pagemap::populated(Range range, PageClass kind, Ranges& pages, bool protect) {
  const uint64_t flags = protect ? kScanWriteProtectMatching | kScanCheckAsync : 0;
  uint64_t done = 0;
  if (kind == PageClass::kPrivateFile) return file_pages(range, flags, done, pages);
  const Query query{.flags = flags, .any_of = kPagePresent | kPageSwapped, .show = kPageZero};
  return scan(range, query, done, [&](Range found, uint64_t categories) {
    if ((categories & kPageZero) == 0) append_range(pages, found);
  });
}

Result<void> Pagemap::take_written(Range range, PageClass kind, Ranges& pages, uint64_t& done) {
  Query query{
      .flags = kScanWriteProtectMatching | kScanCheckAsync, .all_of = kPageWritten, .show = kPageWritten};
  if (kind != PageClass::kShared) query.any_of = kPagePresent | kPageSwapped;
  if (kind == PageClass::kPrivateFile) {
    query.inverted = kPageFile;
    query.all_of |= kPageFile;
  }
  return scan(range, query, done, [&](Range found, uint64_t) { append_range(pages, found); });
}

Result<void> Pagemap::absent(Range range, PageClass kind, Ranges& pages) {
  uint64_t done = 0;
  if (kind == PageClass::kPrivateFile) {
    Ranges populated;
    GODWIT_TRY(file_pages(range, 0, done, populated));
    for (const Range& hole : subtract({range}, populated)) append_range(pages, hole);
    return {};
  }
  const Query query{.inverted = kPagePresent,
                    .any_of = kPagePresent | kPageZero,
                    .show = kPagePresent | kPageSwapped | kPageZero};
  return scan(range, query, done, [&](Range found, uint64_t categories) {
    if (is_absent(categories)) append_range(pages, found);
  });
}

Result<void> Pagemap::written_and_absent(Range range, PageClass kind, Ranges& written, Ranges& missing) {
  uint64_t done = 0;
  if (kind == PageClass::kPrivateFile) {
    Ranges populated;
    GODWIT_TRY(file_pages(range, kScanCheckAsync, done, populated));
    for (const Range& hole : subtract({range}, populated)) append_range(missing, hole);
    for (const Range& pages : populated) append_range(written, pages);
    return {};
  }
  Query query{.flags = kScanCheckAsync, .all_of = kPageWritten, .show = kPageWritten};
  if (kind == PageClass::kShared)
    return scan(range, query, done, [&](Range found, uint64_t) { append_range(written, found); });
  // Written, or not present: what is clean and present is passed without a word.
  query = {.flags = kScanCheckAsync,
           .inverted = kPagePresent,
           .any_of = kPageWritten | kPagePresent | kPageZero,
           .show = kPageWritten | kPagePresent | kPageSwapped | kPageZero};
  return scan(range, query, done, [&](Range found, uint64_t categories) {
    if (is_absent(categories))
      append_range(missing, found);
    else if ((categories & kPageWritten) != 0)
      append_range(written, found);
  });
}

}  // namespace godwit::runtime
