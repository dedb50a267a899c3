// The layout of a batch of pages, as the reader fills it and the writer takes it. Opaque to the engine and
// the link.
//
//   BatchHeader | Extent x extent_count | padding to 64 | payload (pages of the extents with kind pages, in
//   order)
//
// All integers little-endian. Every count and offset is checked against the batch's size before it is used.
#pragma once

#include <cstdint>

namespace godwit::runtime {

inline constexpr uint32_t kPageSize = 4096;
inline constexpr uint32_t kBatchMagic = 0x31425747;  // "GWB1"

// Where pages live: the private memory of a process, or a shared-memory object.
enum class SpaceKind : uint32_t { kInvalid = 0, kProcess = 1, kSharedMemory = 2 };

enum class ExtentKind : uint32_t { kInvalid = 0, kPages = 1, kZero = 2 };

struct BatchHeader {
  uint32_t magic = kBatchMagic;
  uint32_t extent_count = 0;
  uint64_t payload_offset = 0;  // from the start of the batch
  uint64_t payload_size = 0;
};
static_assert(sizeof(BatchHeader) == 24);

struct Extent {
  SpaceKind space_kind = SpaceKind::kInvalid;
  ExtentKind kind = ExtentKind::kInvalid;
  uint64_t space_id = 0;  // pid in the container, or SharedMemory.id
  uint64_t start = 0;     // address, or offset in the object
  uint64_t size = 0;      // bytes, a multiple of the page size
};
static_assert(sizeof(Extent) == 32);

}  // namespace godwit::runtime
