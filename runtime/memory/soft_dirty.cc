// Dirty tracking by soft-dirty bits: writing 4 to /proc/PID/clear_refs takes them from all pages of a
// process, a page that is written gets its own back, and /proc/PID/pagemap shows it
// (Documentation/admin-guide/mm/soft-dirty.rst).
//
// To read the bits and to clear them are two steps, and what is written between the two is lost, in either
// order. So the process stands still for them (dirty_tracker.h, Standstill). Arming needs no standstill: bits
// are cleared first, then every populated page is named.
//
// What the bits do not say, and how it is known all the same:
// * Pages that vanish or are made anew: absent pages show in the page tables, fresh ones have their bit.
// * mremap(2) moves aligned areas of 2 MiB by their whole page tables, and then sets no bits (seen on 6.1 and
//   6.12). The frame of every page is remembered: another frame under an address, without the bit, is another
//   page. Then all of the 2 MiB count as written. Frames change for other reasons, too (compaction, swap);
//   that is a false positive. A moved page is overlooked only if since the last round the kernel has by
//   itself migrated it to the very frame that the page before it had, and did the same to all of its
//   neighbours.
// * Shared memory: where a page-table entry goes (memory pressure, MADV_DONTNEED) its bit goes with it, and
//   the written page stays. So shared mappings always count as written, and are compared by their contents.
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <memory>
#include <unordered_map>
#include <utility>

#include "runtime/kernel/features.h"
#include "runtime/memory/dirty_tracker.h"
#include "runtime/memory/page_batch.h"
#include "runtime/memory/pagemap.h"

namespace godwit::runtime {
namespace {

constexpr uint64_t kBlockPages = 512;
constexpr uint64_t kBlockBytes = kBlockPages * kPageSize;

// Where the pages of a process were when one last looked, by what pagemap said of each.
class Frames {
 public:
  void put(uint64_t address, uint64_t frame) { block(address)[index(address)] = frame; }
  [[nodiscard]] uint64_t find(uint64_t address) {
    const auto found = blocks_.find(address / kBlockBytes);
    return found == blocks_.end() ? 0 : (*found->second)[index(address)];
  }

 private:
  using Block = std::array<uint64_t, kBlockPages>;
  static size_t index(uint64_t address) { return address / kPageSize % kBlockPages; }
  Block& block(uint64_t address) {
    std::unique_ptr<Block>& found = blocks_[address / kBlockBytes];
    if (!found) found = std::make_unique<Block>();
    return *found;
  }
  std::unordered_map<uint64_t, std::unique_ptr<Block>> blocks_;
};

uint64_t frame_of(uint64_t entry) {
  return entry & (kEntryFrame | kEntryPresent | kEntrySwapped);
}

class SoftDirtyTracker final : public DirtyTracker {
 public:
  SoftDirtyTracker(pid_t pid, Fd clear_refs, Pagemap pagemap, Standstill standstill)
      : pid_(pid),
        clear_refs_(std::move(clear_refs)),
        pagemap_(std::move(pagemap)),
        standstill_(std::move(standstill)) {}
  [[nodiscard]] const char* name() const override { return "soft-dirty"; }
  Result<Followed> follow(const std::vector<Vma>& vmas) override;
  Result<Ranges> collect(Ranges& replaced) override;
  Result<LastRound> collect_last(const std::vector<Vma>& vmas, SharedWork& work) override;
  // Nobody minds cleared bits.
  Result<void> stop() override { return {}; }

 private:
  struct Area {
    Range range;
    PageClass kind = PageClass::kAnonymous;
  };
  Result<void> check_alive() const;
  Result<void> clear() const;
  void split(const Vma& vma, std::vector<Area>& known, Ranges& fresh) const;
  Result<Ranges> read_and_clear();
  Result<void> scan(const Area& area, Frames* now, Ranges& written, Ranges& populated);
  [[nodiscard]] std::string describe() const { return "pid " + std::to_string(pid_); }

  pid_t pid_;
  Fd clear_refs_;
  Pagemap pagemap_;
  Standstill standstill_;
  std::vector<Area> areas_;  // ascending
  Frames frames_;            // of areas_, as of the last clear() or newer
  bool armed_ = false;
};

Result<void> SoftDirtyTracker::check_alive() const {
  if (pagemap_.alive()) return {};
  return fail("track the memory of", describe(), ESRCH, "it ended or executed another program");
}

Result<void> SoftDirtyTracker::clear() const {
  if (::pwrite(clear_refs_.get(), "4", 1, 0) == 1) return {};
  return fail("clear the soft-dirty bits of", describe());
}

void SoftDirtyTracker::split(const Vma& vma, std::vector<Area>& known, Ranges& fresh) const {
  uint64_t at = vma.start;
  auto area =
      std::ranges::lower_bound(areas_, vma.start + 1, {}, [](const Area& one) { return one.range.end; });
  for (; area != areas_.end() && area->range.start < vma.end; ++area) {
    if (area->kind != page_class(vma)) continue;
    const Range common{std::max(area->range.start, vma.start), std::min(area->range.end, vma.end)};
    append_range(fresh, {at, common.start});
    known.push_back({common, area->kind});
    at = common.end;
  }
  append_range(fresh, {at, vma.end});
}

Result<DirtyTracker::Followed> SoftDirtyTracker::follow(const std::vector<Vma>& vmas) {
  GODWIT_TRY(check_alive());
  if (!std::exchange(armed_, true)) GODWIT_TRY(clear());
  Followed followed;
  std::vector<Area> areas;
  areas.reserve(vmas.size());
  for (const Vma& vma : vmas) {
    std::vector<Area> known;
    Ranges fresh;
    split(vma, known, fresh);
    for (const Range& range : fresh) {
      append_range(followed.areas, range);
      if (vma.shared) continue;
      GODWIT_TRY(pagemap_.visit_entries(range, page_class(vma), [&](uint64_t address, uint64_t entry) {
        frames_.put(address, frame_of(entry));
        append_range(followed.populated, {address, address + kPageSize});
      }));
    }
    areas.push_back({{vma.start, vma.end}, page_class(vma)});
  }
  areas_ = std::move(areas);
  return followed;
}

// Appends the written and the populated pages of a private area. `now`: where their frames are noted.
Result<void> SoftDirtyTracker::scan(const Area& area, Frames* now, Ranges& written, Ranges& populated) {
  Ranges found;
  Ranges dirty;
  Ranges suspect;  // blocks
  GODWIT_TRY(pagemap_.visit_entries(area.range, area.kind, [&](uint64_t address, uint64_t entry) {
    const Range page{address, address + kPageSize};
    append_range(found, page);
    if (now != nullptr) now->put(address, frame_of(entry));
    if ((entry & kEntrySoftDirty) != 0) return append_range(dirty, page);
    if (frames_.find(address) == frame_of(entry)) return;
    const uint64_t block = address / kBlockBytes * kBlockBytes;
    append_range(suspect, {block, block + kBlockBytes});
  }));
  for (const Range& pages : intersect(found, suspect)) dirty.push_back(pages);
  if (!suspect.empty()) normalize(dirty);
  for (const Range& pages : dirty) append_range(written, pages);
  for (const Range& pages : found) append_range(populated, pages);
  return {};
}

Result<Ranges> SoftDirtyTracker::read_and_clear() {
  GODWIT_TRY(check_alive());
  Ranges written;
  Ranges ignored;
  Frames now;
  for (const Area& area : areas_) {
    if (area.kind == PageClass::kShared)
      append_range(written, area.range);
    else
      GODWIT_TRY(scan(area, &now, written, ignored));
  }
  GODWIT_TRY(clear());
  frames_ = std::move(now);
  return written;
}

// Nothing is ever reported as replaced: the pages of a fresh mapping are written, or absent, or moved there.
Result<Ranges> SoftDirtyTracker::collect(Ranges&) {
  if (!armed_) return Ranges{};
  Ranges written;
  GODWIT_TRY(standstill_([&]() -> Result<void> {
    GODWIT_ASSIGN(written, read_and_clear());
    return {};
  }));
  return written;
}

Result<DirtyTracker::LastRound> SoftDirtyTracker::collect_last(const std::vector<Vma>& vmas, SharedWork&) {
  GODWIT_TRY(check_alive());
  LastRound last;
  for (const Vma& vma : vmas) {
    std::vector<Area> known;
    Ranges fresh;
    split(vma, known, fresh);
    for (const Range& range : fresh) append_range(last.unfollowed, range);
    for (const Area& area : known) {
      if (area.kind == PageClass::kShared) {
        append_range(last.written, area.range);
        continue;
      }
      Ranges populated;
      GODWIT_TRY(scan(area, nullptr, last.written, populated));
      for (const Range& hole : subtract({area.range}, populated)) append_range(last.absent, hole);
    }
  }
  return last;
}

}  // namespace

Result<std::unique_ptr<DirtyTracker>> make_soft_dirty_tracker(pid_t pid, Standstill standstill) {
  if (!tracking_abilities().soft_dirty)
    return refuse("track by soft-dirty bits", "pid " + std::to_string(pid),
                  "this kernel has none (CONFIG_MEM_SOFT_DIRTY)");
  GODWIT_ASSIGN(Fd clear_refs, open_file("/proc/" + std::to_string(pid) + "/clear_refs", O_WRONLY));
  GODWIT_ASSIGN(Pagemap pagemap, Pagemap::open(pid));
  return std::make_unique<SoftDirtyTracker>(pid, std::move(clear_refs), std::move(pagemap),
                                            std::move(standstill));
}

}  // namespace godwit::runtime
