#include "engine/session/heap.h"

#include <malloc.h>

#include <cstddef>
#include <memory>

namespace godwit::engine {
namespace {
// Some five copies of the queues of a few busy connections.
constexpr size_t kWarmBytes = size_t{16} << 20;
constexpr size_t kPageBytes = 4096;
// mallopt(3): the most that M_MMAP_THRESHOLD can be set to.
constexpr int kHeapBlockMax = 32 << 20;
}  // namespace

void keep_heap() {
  // Nothing is lost where the allocator refuses: the cutover is a little longer.
  (void)::mallopt(M_MMAP_THRESHOLD, kHeapBlockMax);
  (void)::mallopt(M_TRIM_THRESHOLD, kHeapBlockMax);
}

void warm_heap() {
  const auto block = std::make_unique_for_overwrite<std::byte[]>(kWarmBytes);
  // The compiler may leave out stores that nobody reads, and then the allocation too; not volatile ones.
  volatile std::byte* const bytes = block.get();
  for (size_t at = 0; at < kWarmBytes; at += kPageBytes) bytes[at] = std::byte{1};
}

}  // namespace godwit::engine
