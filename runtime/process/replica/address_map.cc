#include "runtime/process/replica/address_map.h"

#include <sys/mman.h>

#include <algorithm>

#include "runtime/process/validate.h"

namespace godwit::runtime::rebuild {
namespace {

// The offset of `address`, which lies in the area.
uint64_t offset_at(const Area& area, uint64_t address) {
  return area.kind == AreaKind::kAnonymous ? 0 : area.offset + (address - area.start);
}

bool same_backing(const Area& a, const Area& b, uint64_t address) {
  return a.kind == b.kind && a.shared == b.shared && a.read_only == b.read_only &&
         a.shared_memory == b.shared_memory && a.path == b.path &&
         offset_at(a, address) == offset_at(b, address);
}

// Whether `b`, which begins where `a` ends, continues it.
bool continues(const Area& a, const Area& b) {
  return a.end == b.start && a.kind == b.kind && a.shared == b.shared && a.read_only == b.read_only &&
         a.shared_memory == b.shared_memory && a.create_flags == b.create_flags &&
         a.protection == b.protection && a.advice == b.advice && a.file_size == b.file_size &&
         a.file_modified_ns == b.file_modified_ns && offset_at(a, b.start) == b.offset && a.path == b.path &&
         a.name == b.name;
}

void add_area(std::vector<Area>& areas, Area area) {
  if (!areas.empty() && continues(areas.back(), area)) {
    areas.back().end = area.end;
  } else {
    areas.push_back(std::move(area));
  }
}

Area part_of(const Area& whole, uint64_t start, uint64_t end) {
  Area part = whole;
  part.offset = offset_at(whole, start);
  part.start = start;
  part.end = end;
  return part;
}

void unmap(AddressChanges& changes, uint64_t start, uint64_t end) {
  if (!changes.unmap.empty() && changes.unmap.back().end == start) {
    changes.unmap.back().end = end;
  } else {
    changes.unmap.push_back({start, end});
  }
}

// Locked pages: only these two bits decide what mlock2(2) is called with.
constexpr uint32_t kNewAdviceMask = 0xff;

void change_in_place(AddressChanges& changes, const Area& have, const Area& want, AddressRange range) {
  if (have.protection != want.protection) {
    auto& last = changes.protect;
    if (!last.empty() && last.back().range.end == range.start && last.back().protection == want.protection) {
      last.back().range.end = range.end;
    } else {
      last.push_back({range, want.protection});
    }
  }
  if (have.advice != want.advice) changes.advise.push_back({range, have.advice, want.advice});
  if (have.name != want.name) changes.rename.push_back({range, want.name});
}

void map_anew(AddressChanges& changes, Area area) {
  add_area(changes.map, std::move(area));
}

// Advice and names of what is mapped anew.
void dress_new(AddressChanges& changes) {
  for (const Area& area : changes.map) {
    const AddressRange range{area.start, area.end};
    if ((area.advice & kNewAdviceMask) != 0) changes.advise.push_back({range, 0, area.advice});
    if (!area.name.empty()) changes.rename.push_back({range, area.name});
  }
}

}  // namespace

AddressMap make_address_map(const model::AddressSpace& memory) {
  AddressMap map;
  map.reserve(static_cast<size_t>(memory.mappings_size()));
  for (const model::Mapping& mapping : memory.mappings()) {
    Area area;
    area.start = mapping.start();
    area.end = mapping.end();
    area.shared = (mapping.flags() & MAP_SHARED) != 0;
    area.read_only = mapping.read_only();
    area.create_flags = mapping.flags() & (MAP_GROWSDOWN | MAP_NORESERVE);
    area.protection = mapping.protection();
    area.advice = mapping.advice();
    area.name = mapping.name();
    if (mapping.shared_memory() != 0) {
      area.kind = AreaKind::kSharedMemory;
      area.shared_memory = mapping.shared_memory();
      area.offset = mapping.offset();
    } else if (!mapping.path().empty()) {
      area.kind = AreaKind::kFile;
      area.path = mapping.path();
      area.offset = mapping.offset();
      area.file_size = mapping.file().size();
      area.file_modified_ns = mapping.file().modified_ns();
    }
    add_area(map, std::move(area));
  }
  return map;
}

AddressChanges compare(const AddressMap& have, const AddressMap& want) {
  AddressChanges changes;
  size_t h = 0;
  size_t w = 0;
  uint64_t at = 0;
  while (h < have.size() || w < want.size()) {
    const uint64_t have_start = h < have.size() ? std::max(at, have[h].start) : UINT64_MAX;
    const uint64_t want_start = w < want.size() ? std::max(at, want[w].start) : UINT64_MAX;
    const uint64_t start = std::min(have_start, want_start);
    const bool in_have = have_start == start;
    const bool in_want = want_start == start;
    // Up to the next border of either map.
    const uint64_t have_border = in_have ? have[h].end : have_start;
    const uint64_t want_border = in_want ? want[w].end : want_start;
    const uint64_t end = std::min(have_border, want_border);
    if (in_have && in_want && same_backing(have[h], want[w], start)) {
      change_in_place(changes, have[h], want[w], {start, end});
    } else {
      if (in_have) unmap(changes, start, end);
      if (in_want) map_anew(changes, part_of(want[w], start, end));
    }
    at = end;
    if (in_have && at == have[h].end) h++;
    if (in_want && at == want[w].end) w++;
  }
  dress_new(changes);
  return changes;
}

bool overlaps(const AddressMap& map, uint64_t start, uint64_t end) {
  const auto found = std::upper_bound(map.begin(), map.end(), start,
                                      [](uint64_t address, const Area& area) { return address < area.end; });
  return found != map.end() && found->start < end;
}

bool covers(const AddressMap& map, uint64_t start, uint64_t end) {
  auto found = std::upper_bound(map.begin(), map.end(), start,
                                [](uint64_t address, const Area& area) { return address < area.end; });
  while (found != map.end() && found->start <= start) {
    if (found->end >= end) return true;
    start = found->end;
    ++found;
  }
  return start >= end;
}

uint64_t find_hole(const AddressMap& first, const AddressMap& second, uint64_t size, uint64_t margin) {
  std::vector<AddressRange> taken;
  for (const AddressMap* map : {&first, &second}) {
    for (const Area& area : *map) taken.push_back({area.start, area.end});
  }
  std::sort(taken.begin(), taken.end(), [](auto& a, auto& b) { return a.start < b.start; });
  // Low addresses first: programs map from the top down, and heaps grow upwards from far above.
  uint64_t free_from = uint64_t{1} << 20;
  for (const AddressRange& range : taken) {
    if (range.start > free_from && range.start - free_from >= size + 2 * margin) return free_from + margin;
    free_from = std::max(free_from, range.end);
  }
  return kTaskSize > free_from && kTaskSize - free_from >= size + 2 * margin ? free_from + margin : 0;
}

}  // namespace godwit::runtime::rebuild
