#include "runtime/memory/uffd_tracker.h"

#include <linux/userfaultfd.h>
#include <sys/ioctl.h>

#include <algorithm>
#include <atomic>
#include <utility>

#include "base/shared_work.h"
#include "runtime/kernel/uapi.h"
#include "runtime/memory/page_batch.h"

namespace godwit::runtime {
namespace {

// Of the last round. A piece is what a thread takes at once, 20 us or more; of a mapping that is large and
// mostly empty (16 TiB, with some sanitizers) it is more, since a piece costs a system call.
constexpr uint64_t kPieceBytesMin = uint64_t{32} << 20;
constexpr uint64_t kPiecesMax = 1024;
// Less is scanned sooner than anybody comes to help.
constexpr uint64_t kSharedBytesMin = uint64_t{128} << 20;

}  // namespace

void for_each_part(Range range, const std::vector<Vma>& vmas, const std::function<void(Range)>& visit) {
  auto vma = std::ranges::lower_bound(vmas, range.start + 1, {}, &Vma::end);
  for (; vma != vmas.end() && vma->start < range.end; ++vma)
    visit({std::max(range.start, vma->start), std::min(range.end, vma->end)});
}

// The pagemap of a dead address space is simply empty; only userfaultfd says that it is gone. Unprotecting a
// page that nobody maps changes nothing: ENOENT from a living one.
Result<void> UffdTracker::check_alive() const {
  uffdio_writeprotect request{};
  request.range = {.start = 0, .len = kPageSize};
  if (::ioctl(fd_.get(), UFFDIO_WRITEPROTECT, &request) == 0 || errno != ESRCH) return {};
  return fail("track the memory of", describe(), ESRCH, "it ended or executed another program");
}

void UffdTracker::split(const Vma& vma, size_t& next, std::vector<Area>& known, Ranges& fresh) const {
  uint64_t at = vma.start;
  while (next < areas_.size() && areas_[next].range.end <= vma.start) ++next;
  for (size_t i = next; i < areas_.size() && areas_[i].range.start < vma.end; ++i) {
    const Area& area = areas_[i];
    if (area.kind != page_class(vma)) continue;
    const Range common{std::max(area.range.start, vma.start), std::min(area.range.end, vma.end)};
    append_range(fresh, {at, common.start});
    known.push_back({common, area.kind, area.watch});
    at = common.end;
  }
  append_range(fresh, {at, vma.end});
}

// Protects one new range, and lists its pages. Returns how it is watched from here on.
Result<UffdTracker::Watch> UffdTracker::enrol(Range range, PageClass kind, Watch watch, Followed& followed) {
  if (watch == Watch::kRegistered) {
    Ranges pages;
    GODWIT_ASSIGN(const bool armed, arm(range, kind, pages));
    if (armed) {
      for (const Range& found : pages) append_range(followed.populated, found);
      return watch;
    }
    watch = Watch::kInvalid;  // it changed under our hands
  }
  if (kind != PageClass::kShared) GODWIT_TRY(pagemap_.populated(range, kind, followed.populated));
  return watch;
}

Result<DirtyTracker::Followed> UffdTracker::follow(const std::vector<Vma>& vmas) {
  GODWIT_TRY(check_alive());
  GODWIT_ASSIGN(const Ranges registered, register_all());
  Followed followed;
  std::vector<Area> areas;
  areas.reserve(vmas.size());
  size_t next = 0;
  for (const Vma& vma : vmas) {
    Ranges fresh;
    const size_t first = areas.size();
    split(vma, next, areas, fresh);
    for (const Range& range : fresh) {
      const PageClass kind = page_class(vma);
      Watch watch = watch_of(vma, range, registered);
      GODWIT_ASSIGN(watch, enrol(range, kind, watch, followed));
      append_range(followed.areas, range);
      if (watch != Watch::kInvalid) areas.push_back({range, kind, watch});
    }
    std::ranges::sort(areas.begin() + static_cast<ptrdiff_t>(first), areas.end(), {},
                      [](const Area& area) { return area.range.start; });
  }
  areas_ = std::move(areas);
  return followed;
}

// Cut at the borders of today's mappings, because a call that meets an unregistered mapping fails as a whole:
// a small mapping that was replaced in the midst of a large area shall not cost the area.
Result<std::vector<UffdTracker::Area>> UffdTracker::cut_at_mappings() const {
  GODWIT_ASSIGN(const std::vector<Vma> vmas, read_maps(pid_));
  std::vector<Area> cut;
  for (const Area& area : areas_)
    for_each_part(area.range, vmas, [&](Range part) { cut.push_back({part, area.kind, area.watch}); });
  return cut;
}

// Of a mapping that the kernel does not follow: whatever it holds may have been written.
static Result<void> compare(Pagemap& pagemap, Range range, PageClass kind, Ranges& written, Ranges* absent) {
  if (kind == PageClass::kShared) {
    append_range(written, range);
    return {};
  }
  Ranges populated;
  GODWIT_TRY(pagemap.populated(range, kind, populated));
  for (const Range& pages : populated) append_range(written, pages);
  if (absent != nullptr)
    for (const Range& hole : subtract({range}, populated)) append_range(*absent, hole);
  return {};
}

Result<Ranges> UffdTracker::collect(Ranges& replaced) {
  GODWIT_TRY(check_alive());
  GODWIT_ASSIGN(const std::vector<Area> areas, cut_at_mappings());
  Ranges written;
  std::vector<Area> kept;
  kept.reserve(areas.size());
  for (const Area& area : areas) {
    Ranges lost;
    if (area.watch == Watch::kRegistered) {
      GODWIT_TRY(take(area.range, area.kind, written, lost));
    } else if (area.watch != Watch::kNeverWritten) {
      GODWIT_TRY(compare(pagemap_, area.range, area.kind, written, nullptr));
    }
    for (const Range& part : lost) append_range(replaced, part);
    for (const Range& part : subtract({area.range}, lost)) kept.push_back({part, area.kind, area.watch});
  }
  areas_ = std::move(kept);
  return written;
}

void UffdTracker::cut_to_pieces(const Area& area, std::vector<Piece>& pieces) {
  const auto& [range, kind, watch] = area;
  const uint64_t pages = std::max(kPieceBytesMin, range.size() / kPiecesMax) / kPageSize;
  for (uint64_t at = range.start; at < range.end; at += pages * kPageSize)
    pieces.emplace_back().area = {{at, std::min(at + pages * kPageSize, range.end)}, kind, watch};
}

Result<void> UffdTracker::look_at(Pagemap& pagemap, Piece& piece) const {
  const auto& [range, kind, watch] = piece.area;
  if (watch == Watch::kNeverWritten) return {};
  if (watch != Watch::kRegistered) return compare(pagemap, range, kind, piece.written, &piece.absent);
  GODWIT_ASSIGN(piece.registered, look(pagemap, range, kind, piece.written, piece.absent));
  return {};
}

// The container stands still meanwhile, and a walk takes some 2 ns a page: whoever has time helps.
Result<void> UffdTracker::look_at_all(std::vector<Piece>& pieces, SharedWork& work) {
  uint64_t bytes = 0;
  for (const Piece& piece : pieces) bytes += piece.area.range.size();
  std::vector<Result<void>> outcomes(work.lanes());
  std::atomic<size_t> next = 0;
  const auto look_at_some = [&](Pagemap& pagemap, Result<void>& outcome) {
    for (size_t i = next++; i < pieces.size() && outcome; i = next++) outcome = look_at(pagemap, pieces[i]);
  };
  const auto look_as = [&](size_t lane) {
    if (lane == 0) return look_at_some(pagemap_, outcomes[0]);
    auto pagemap = pagemap_.duplicate();
    if (pagemap) look_at_some(*pagemap, outcomes[lane]);  // without one, the others do it
  };
  if (bytes < kSharedBytesMin)
    look_as(0);
  else
    work.run(look_as);
  for (Result<void>& outcome : outcomes) GODWIT_TRY(std::move(outcome));
  return {};
}

Result<DirtyTracker::LastRound> UffdTracker::collect_last(const std::vector<Vma>& vmas, SharedWork& work) {
  GODWIT_TRY(check_alive());
  GODWIT_TRY(prepare_to_look());
  LastRound last;
  std::vector<Piece> pieces;
  size_t next = 0;
  for (const Vma& vma : vmas) {
    std::vector<Area> known;
    split(vma, next, known, last.unfollowed);
    for (const Area& area : known) cut_to_pieces(area, pieces);
  }
  GODWIT_TRY(look_at_all(pieces, work));
  for (const Piece& piece : pieces) {
    if (!piece.registered) {
      last.unfollowed.push_back(piece.area.range);
      continue;
    }
    for (const Range& range : piece.written) append_range(last.written, range);
    for (const Range& range : piece.absent) append_range(last.absent, range);
  }
  normalize(last.unfollowed);
  return last;
}

// The last descriptor: the kernel gives back all mappings in one step. One by one, an mremap(2) of the
// process that meets the border of what is still registered would fail (EFAULT).
Result<void> UffdTracker::stop() {
  areas_.clear();
  fd_.reset();
  return {};
}

}  // namespace godwit::runtime
