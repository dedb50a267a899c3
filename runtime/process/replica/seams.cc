#include "runtime/process/replica/seams.h"

#include <sys/mman.h>

#include <algorithm>

#include "runtime/memory/pagemap.h"
#include "runtime/memory/process_memory.h"

namespace godwit::runtime::rebuild {
namespace {

// Maps [start, end) anew, with the properties it has.
void map_anew(const AddressMap& map, uint64_t start, uint64_t end, AddressChanges& changes) {
  if (start >= end) return;
  const auto found = std::upper_bound(map.begin(), map.end(), start,
                                      [](uint64_t address, const Area& area) { return address < area.end; });
  if (found == map.end() || found->start > start || found->end < end) return;
  Area area = *found;
  area.start = start;
  area.end = end;
  changes.unmap.push_back({start, end});
  if (area.advice != 0) changes.advise.push_back({{start, end}, 0, area.advice});
  if (!area.name.empty()) changes.rename.push_back({{start, end}, area.name});
  changes.map.push_back(std::move(area));
}

bool is_anonymous(const model::Mapping& mapping) {
  return mapping.path().empty() && mapping.shared_memory() == 0 &&
         (mapping.flags() & (MAP_SHARED | MAP_GROWSDOWN)) == 0;
}

}  // namespace

AddressChanges find_seams(const std::vector<Vma>& have, const model::AddressSpace& wanted,
                          const AddressMap& map, Anew anew) {
  AddressChanges changes;
  auto vma = have.begin();
  for (const model::Mapping& mapping : wanted.mappings()) {
    while (vma != have.end() && vma->end <= mapping.start()) ++vma;
    if (!is_anonymous(mapping) || vma == have.end() || vma->end >= mapping.end()) continue;
    if (anew == Anew::kWhole) {
      map_anew(map, mapping.start(), mapping.end(), changes);
      continue;
    }
    AddressRange largest{};
    for (auto piece = vma; piece != have.end() && piece->start < mapping.end(); ++piece) {
      const AddressRange inside{std::max(piece->start, mapping.start()), std::min(piece->end, mapping.end())};
      if (inside.end - inside.start > largest.end - largest.start) largest = inside;
    }
    map_anew(map, mapping.start(), largest.start, changes);
    map_anew(map, largest.end, mapping.end(), changes);
  }
  return changes;
}

Result<SavedPages> SavedPages::save(pid_t host_pid, const std::vector<AddressRange>& ranges) {
  SavedPages saved;
  saved.host_pid_ = host_pid;
  GODWIT_ASSIGN(Pagemap pagemap, Pagemap::open(host_pid));
  for (const AddressRange& range : ranges)
    GODWIT_TRY(pagemap.populated({range.start, range.end}, PageClass::kAnonymous, saved.ranges_));
  size_t total = 0;
  for (const Range& range : saved.ranges_) total += range.size();
  saved.pages_.resize(total);
  ProcessMemory memory(host_pid);
  std::byte* to = saved.pages_.data();
  for (const Range& range : saved.ranges_) {
    GODWIT_ASSIGN(const size_t got, memory.read_forced(range, to));
    if (got != range.size())
      return fail("save pages of", "pid " + std::to_string(host_pid), EFAULT, "they cannot be read");
    to += got;
  }
  return saved;
}

Result<void> SavedPages::restore() const {
  if (ranges_.empty()) return {};
  ProcessMemory memory(host_pid_);
  GODWIT_TRY(memory.prepare());
  return memory.write(ranges_, pages_.data());
}

}  // namespace godwit::runtime::rebuild
