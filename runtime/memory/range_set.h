// Sets of pages as ascending lists of ranges that do not touch each other.
#pragma once

#include <cstdint>
#include <vector>

#include "runtime/memory/address_space.h"

namespace godwit::runtime {

using Ranges = std::vector<Range>;

// Adds a range behind all others; grows the last one if they touch or overlap. Empty ranges are ignored.
void append_range(Ranges& ranges, Range range);
// Sorts and merges any list of ranges into a set.
void normalize(Ranges& ranges);
[[nodiscard]] Ranges intersect(const Ranges& left, const Ranges& right);
[[nodiscard]] Ranges subtract(const Ranges& from, const Ranges& what);
[[nodiscard]] uint64_t total_size(const Ranges& ranges);

}  // namespace godwit::runtime
