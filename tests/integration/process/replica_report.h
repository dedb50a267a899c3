// What replica_victim writes, and replica_test reads.
#pragma once

#include <cstdint>

namespace godwit::runtime::test {

struct ReplicaReport {
  uint64_t rounds = 0;
  uint64_t wrong = 0;  // bits of what looked wrong, ever
  uint64_t thread_rounds = 0;
  uint64_t child_rounds = 0;
  uint64_t urgent = 0;  // SIGURG that nobody has sent
};

}  // namespace godwit::runtime::test
