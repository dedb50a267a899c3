#include "runtime/memory/range_set.h"

#include <algorithm>
#include <cassert>

namespace godwit::runtime {

void append_range(Ranges& ranges, Range range) {
  if (range.start >= range.end) return;
  assert(ranges.empty() || ranges.back().start <= range.start);
  if (!ranges.empty() && range.start <= ranges.back().end)
    ranges.back().end = std::max(ranges.back().end, range.end);
  else
    ranges.push_back(range);
}

void normalize(Ranges& ranges) {
  std::ranges::sort(ranges, {}, &Range::start);
  Ranges merged;
  merged.reserve(ranges.size());
  for (const Range& range : ranges) append_range(merged, range);
  ranges = std::move(merged);
}

Ranges intersect(const Ranges& left, const Ranges& right) {
  Ranges common;
  auto one = left.begin();
  auto other = right.begin();
  while (one != left.end() && other != right.end()) {
    append_range(common, {std::max(one->start, other->start), std::min(one->end, other->end)});
    if (one->end < other->end)
      ++one;
    else
      ++other;
  }
  return common;
}

Ranges subtract(const Ranges& from, const Ranges& what) {
  Ranges rest;
  auto hole = what.begin();
  for (const Range& range : from) {
    uint64_t start = range.start;
    while (hole != what.end() && hole->end <= start) ++hole;
    for (auto next = hole; next != what.end() && next->start < range.end; ++next) {
      append_range(rest, {start, std::min(next->start, range.end)});
      start = std::max(start, next->end);
    }
    append_range(rest, {start, range.end});
  }
  return rest;
}

uint64_t total_size(const Ranges& ranges) {
  uint64_t size = 0;
  for (const Range& range : ranges) size += range.size();
  return size;
}

}  // namespace godwit::runtime
