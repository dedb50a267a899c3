// Pagemap: what /proc/PID/pagemap tells about ranges of pages, by PAGEMAP_SCAN where there is one (Linux
// 6.7), and by reading an entry for every page elsewhere (Documentation/admin-guide/mm/pagemap.rst). The
// second way needs CAP_SYS_ADMIN (it tells zero pages by their frame), and cannot protect.
//
// With PAGEMAP_SCAN the kernel walks the page tables in the call; what it costs depends on the pages it has
// to name (some 10 ns each) and on the entries it passes (1 to 3 ns each, more where file pages must be told
// from others). Hence the queries: each asks for what is rare. Reading costs some 30 ns for every page, and a
// tenth of it for one that is not there.
//
// Threads: one at a time. The descriptor belongs to the address space at the moment of open(); after an
// execve(2) of the process it shows nothing.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <functional>
#include <vector>

#include "base/fd.h"
#include "base/result.h"
#include "runtime/kernel/uapi.h"
#include "runtime/memory/address_space.h"
#include "runtime/memory/range_set.h"

namespace godwit::runtime {

// Whose pages a mapping holds, which decides what travels and what its absence means.
enum class PageClass {
  kAnonymous,    // private; an absent page reads as zeroes
  kPrivateFile,  // private; an absent page reads as the file's, and only pages that are no longer the file's
                 // travel
  kShared,       // the pages belong to a shared-memory object
};
[[nodiscard]] PageClass page_class(const Vma& vma);

class Pagemap {
 public:
  static Result<Pagemap> open(pid_t pid);
  // Of the same address space, for another thread.
  [[nodiscard]] Result<Pagemap> duplicate() const;
  // Whether the address space still exists.
  [[nodiscard]] bool alive() const;

  // Appends the populated private pages of the range, which are not the file's; with `protect` they are
  // write-protected in the same step (a registered userfaultfd with WP_ASYNC is needed). Untouched zero pages
  // of anonymous memory are protected, but not reported.
  Result<void> populated(Range range, PageClass kind, Ranges& pages, bool protect = false);
  // Appends the pages written since they were protected, and protects them again. EPERM if a part of the
  // range is not registered; `done` is then where the walk had come to (what was found before it is in
  // `pages`).
  Result<void> take_written(Range range, PageClass kind, Ranges& pages, uint64_t& done);
  // Appends the populated private pages (of shared memory: all) that userfaultfd does not protect. The caller
  // knows that the range is registered.
  Result<void> unprotected(Range range, PageClass kind, Ranges& pages);
  // And the absent ones in the same walk. Not for kPrivateFile.
  Result<void> unprotected_and_absent(Range range, PageClass kind, Ranges& pages, Ranges& missing);
  // The entries, as pread(2) gives them, of the populated private pages.
  using VisitEntry = std::function<void(uint64_t address, uint64_t entry)>;
  Result<void> visit_entries(Range range, PageClass kind, const VisitEntry& visit);
  // Appends the pages of the range that are not populated, untouched zero pages among them (for kPrivateFile:
  // those that are the file's).
  Result<void> absent(Range range, PageClass kind, Ranges& pages);
  // Written and absent pages in one walk, nothing is protected. EPERM as above, with nothing appended.
  //
  // For kPrivateFile every populated page counts as written, since the page tables cannot be trusted there:
  // where a protected page was dropped (MADV_DONTNEED) a marker stays behind, and the next store makes the
  // page twice: first a copy of the file's, protected as the marker says, and only by a second fault a
  // written one. A process that is frozen between the two has a page with other content and without a sign of
  // it. (Such pages are few: data and relocations of programs and libraries.)
  Result<void> written_and_absent(Range range, PageClass kind, Ranges& written, Ranges& missing);

 private:
  struct Query {
    PageClass kind = PageClass::kAnonymous;
    uint64_t flags = 0;
    uint64_t inverted = 0;
    uint64_t all_of = 0;
    uint64_t any_of = 0;
    uint64_t show = 0;
  };
  Pagemap(Fd fd, pid_t pid) : fd_(std::move(fd)), pid_(pid) {}
  template <typename Visit>
  Result<void> scan(Range range, const Query& query, uint64_t& done, Visit visit);
  template <typename Visit>
  Result<void> scan_by_reading(Range range, const Query& query, uint64_t& done, Visit visit);
  template <typename Visit>
  Result<void> read_entries(Range range, Visit visit);
  Result<void> look_written(Range range, PageClass kind, uint64_t flags, Ranges& written, Ranges& missing);
  Result<void> take_written_shared(Range range, Query query, Ranges& pages, uint64_t& done);
  [[nodiscard]] uint64_t categories_of(uint64_t entry, PageClass kind) const;
  [[nodiscard]] bool is_populated(uint64_t entry, PageClass kind) const;
  [[nodiscard]] bool is_zero_frame(uint64_t frame) const;
  Result<Ranges> real_swap(Range range);
  Result<void> file_pages(Range range, uint64_t flags, uint64_t& done, Ranges& populated);

  Fd fd_;
  pid_t pid_;
  std::vector<uapi::PageRegion> found_;  // PAGEMAP_SCAN
  std::vector<uint64_t> entries_;        // reading
  Fd page_flags_;                        // /proc/kpageflags, without PAGEMAP_SCAN
  uint64_t zero_frame_ = 0;              // the same
};

// Bits of an entry of /proc/PID/pagemap.
inline constexpr uint64_t kEntryFrame = (uint64_t{1} << 55) - 1;  // or what is where in swap space
inline constexpr uint64_t kEntrySoftDirty = uint64_t{1} << 55;
inline constexpr uint64_t kEntryProtected = uint64_t{1} << 57;  // by userfaultfd (Linux 5.13)
inline constexpr uint64_t kEntryFile = uint64_t{1} << 61;
inline constexpr uint64_t kEntrySwapped = uint64_t{1} << 62;
inline constexpr uint64_t kEntryPresent = uint64_t{1} << 63;

}  // namespace godwit::runtime
