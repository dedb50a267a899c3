// Shared-memory objects: which of their pages are due in a round.
//
// Writes show in the page tables of the mappings. What does not: writes through descriptors, and mappings
// that are gone by now. Unless it is proven that there were none, all contents are compared.
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>

#include "runtime/memory/memory_spaces.h"

namespace godwit::runtime {
namespace {

constexpr uint64_t round_up(uint64_t size) {
  return (size + kPageSize - 1) / kPageSize * kPageSize;
}

Range offsets(const SharedMemoryView::Mapping& mapping) {
  return {mapping.offset, mapping.offset + (mapping.end - mapping.start)};
}

bool same_mapping(const SharedMemoryView::Mapping& one, const SharedMemoryView::Mapping& other) {
  return one.process_space_id == other.process_space_id && one.start == other.start && one.end == other.end &&
         one.offset == other.offset;
}

}  // namespace

Result<Ranges> allocated_pages(const SharedMemoryView& view) {
  Ranges pages;
  for (off_t at = 0;;) {
    const off_t data = ::lseek(view.fd, at, SEEK_DATA);
    if (data < 0 && errno == ENXIO) return pages;
    if (data < 0) return fail("look for data in shared memory", std::to_string(view.space_id));
    const off_t hole = ::lseek(view.fd, data, SEEK_HOLE);
    if (hole < 0 && errno == ENXIO) return pages;  // it was cut between the two calls
    if (hole < 0) return fail("look for holes in shared memory", std::to_string(view.space_id));
    append_range(
        pages, {static_cast<uint64_t>(data) / kPageSize * kPageSize, round_up(static_cast<uint64_t>(hole))});
    at = hole;
  }
}

void SharedSpace::note_written(const SharedMemoryView& view, uint64_t process_space_id,
                               const Ranges& addresses) {
  for (const SharedMemoryView::Mapping& mapping : view.mappings) {
    if (mapping.process_space_id != process_space_id) continue;
    auto next = std::ranges::lower_bound(addresses, mapping.start + 1, {}, &Range::end);
    for (; next != addresses.end() && next->start < mapping.end; ++next) {
      const uint64_t start = std::max(next->start, mapping.start);
      const uint64_t end = std::min(next->end, mapping.end);
      due_.push_back({start - mapping.start + mapping.offset, end - mapping.start + mapping.offset});
    }
  }
}

// What was written through a mapping since the last round is not known any more when the mapping is gone.
void SharedSpace::note_lost_mappings(const SharedMemoryView& view) {
  for (const SharedMemoryView::Mapping& old : mappings_) {
    const auto same = [&](const auto& now) { return same_mapping(old, now); };
    if (std::ranges::none_of(view.mappings, same)) due_.push_back(offsets(old));
  }
  mappings_ = view.mappings;
}

// Counting allocated pages takes long in a large object. As many blocks as before and no page among the due
// ones that was not known before: then none was freed.
bool SharedSpace::may_have_holes(const SharedStamps& now, const Ranges& due) const {
  return now.blocks() != blocks_ || total_size(table_.known(due)) != total_size(due);
}

Result<void> SharedSpace::begin_round(const SharedMemoryView& view, bool frozen, PageReader& reader) {
  if (view.fd < 0)
    return refuse("read shared memory", std::to_string(view.space_id), "there is no descriptor of it");
  const Ranges whole{{0, std::min(round_up(view.size), kAddressMax)}};
  note_lost_mappings(view);
  normalize(due_);
  Ranges due = intersect(std::exchange(due_, {}), whole);
  table_.keep_only(whole);
  // In this order; see shared_stamps.h.
  const int64_t begun_ns = wall_clock_ns();
  if (!frozen) (void)::lseek(view.fd, 0, SEEK_DATA);
  GODWIT_ASSIGN(const SharedStamps now, SharedStamps::read(view.fd, begun_ns));
  const bool all = !seen_ || view.always_compared || !stamps_.prove_untouched(now);
  if (all || !frozen || may_have_holes(now, due)) {
    blocks_ = now.blocks();
    GODWIT_ASSIGN(Ranges data, allocated_pages(view));
    data = intersect(data, whole);
    // Holes of pages that the target has are due as well: they read as zeroes, and are emptied there.
    const Ranges vanished = table_.known(subtract(whole, data));
    due = all ? data : intersect(due, data);
    due.insert(due.end(), vanished.begin(), vanished.end());
    normalize(due);
  }
  seen_ = true;
  stamps_ = now;
  for (const Range& range : due)
    reader.add({.kind = SpaceKind::kSharedMemory,
                .space_id = space_id_,
                .fd = view.fd,
                .table = &table_,
                .page_class = PageClass::kShared,
                .range = range});
  return {};
}

}  // namespace godwit::runtime
