// What roundtrip_victim writes, and roundtrip_test reads, while both live in different places.
#pragma once

#include <cstdint>

namespace godwit::runtime::test {

struct Report {
  uint64_t rounds = 0;
  uint64_t oddities = 0;  // bits of what looked wrong, ever
  uint64_t failures[8] = {};
  uint64_t thread_rounds[3] = {};
  uint64_t posix_ticks = 0;
  uint64_t interval_ticks = 0;
  uint64_t child_rounds = 0;
  uint64_t child_failures = 0;
};

}  // namespace godwit::runtime::test
