// What the kernel offers and Debian 12's headers (Linux 6.1) do not declare yet.
//
// Values are the kernel's ABI and never change; each is guarded, so that newer headers win. Whether the
// running kernel has a feature is asked by runtime/kernel/features.h, never concluded from these constants.
#pragma once

#include <linux/prctl.h>
#include <linux/sched.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>

#include <cstdint>

// userfaultfd(2): write-protect faults resolved by the kernel itself, recorded in the page tables (6.7); and
// write-protection of pages that do not exist yet (6.4).
#ifndef UFFD_FEATURE_WP_UNPOPULATED
#define UFFD_FEATURE_WP_UNPOPULATED (1 << 13)
#endif
#ifndef UFFD_FEATURE_POISON
#define UFFD_FEATURE_POISON (1 << 14)
#endif
#ifndef UFFD_FEATURE_WP_ASYNC
#define UFFD_FEATURE_WP_ASYNC (1 << 15)
#endif
#ifndef UFFD_FEATURE_MOVE
#define UFFD_FEATURE_MOVE (1 << 16)
#endif

// arch_prctl(2) that maps the vDSO again at a chosen address (with CONFIG_CHECKPOINT_RESTORE).
#ifndef ARCH_MAP_VDSO_64
#define ARCH_MAP_VDSO_64 0x2003
#endif

// prctl(2)
#ifndef PR_SET_MDWE
#define PR_SET_MDWE 65
#define PR_GET_MDWE 66
#endif
#ifndef PR_SET_MEMORY_MERGE
#define PR_SET_MEMORY_MERGE 67
#define PR_GET_MEMORY_MERGE 68
#endif
#ifndef PR_TIMER_CREATE_RESTORE_IDS
#define PR_TIMER_CREATE_RESTORE_IDS 77
#define PR_TIMER_CREATE_RESTORE_IDS_OFF 0
#define PR_TIMER_CREATE_RESTORE_IDS_ON 1
#define PR_TIMER_CREATE_RESTORE_IDS_GET 2
#endif

// PAGEMAP_SCAN, an ioctl of /proc/PID/pagemap (6.7; Documentation/admin-guide/mm/pagemap.rst). The structures
// carry names of our own, so that they do not clash with newer headers.
namespace godwit::runtime::uapi {

struct PageRegion {
  uint64_t start;
  uint64_t end;
  uint64_t categories;
};

struct PagemapScan {
  uint64_t size;  // of this structure
  uint64_t flags;
  uint64_t start;
  uint64_t end;
  uint64_t walk_end;  // out: where the walk stopped
  uint64_t vec;       // address of an array of PageRegion
  uint64_t vec_len;
  uint64_t max_pages;
  uint64_t category_inverted;
  uint64_t category_mask;
  uint64_t category_anyof_mask;
  uint64_t return_mask;
};
static_assert(sizeof(PageRegion) == 24 && sizeof(PagemapScan) == 96);

inline constexpr unsigned long kPagemapScan = _IOWR('f', 16, PagemapScan);
inline constexpr uint64_t kScanWriteProtectMatching = 1;  // PM_SCAN_WP_MATCHING
inline constexpr uint64_t kScanCheckAsync = 2;            // PM_SCAN_CHECK_WPASYNC

// Categories of a page.
inline constexpr uint64_t kPageWriteTracked = 1;  // PAGE_IS_WPALLOWED
inline constexpr uint64_t kPageWritten = 2;       // PAGE_IS_WRITTEN
inline constexpr uint64_t kPageFile = 4;          // PAGE_IS_FILE: page cache of a file or shared memory
inline constexpr uint64_t kPagePresent = 8;       // PAGE_IS_PRESENT
inline constexpr uint64_t kPageSwapped = 16;      // PAGE_IS_SWAPPED
inline constexpr uint64_t kPageZero = 32;         // PAGE_IS_PFNZERO: the shared page of zeroes
inline constexpr uint64_t kPageHuge = 64;         // PAGE_IS_HUGE
inline constexpr uint64_t kPageSoftDirty = 128;   // PAGE_IS_SOFT_DIRTY

}  // namespace godwit::runtime::uapi
