// What an address space consists of, as properties per range of pages; and the difference of two of them.
//
// Two lists of VMAs that describe the same memory need not be equal: userfaultfd registration splits VMAs,
// the kernel merges others. So mappings are compared page range by page range, never one VMA with another.
// Pure functions; the replica's own record of each process is an AddressMap.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "runtime/process/snapshot.pb.h"

namespace godwit::runtime::rebuild {

enum class AreaKind : uint32_t { kAnonymous = 1, kFile = 2, kSharedMemory = 3 };

// A range of pages with equal properties.
struct Area {
  uint64_t start = 0;
  uint64_t end = 0;
  // What it shows. A difference here means other pages: unmap and map anew.
  AreaKind kind = AreaKind::kAnonymous;
  bool shared = false;
  bool read_only = false;      // shared, and never to be writable: mapped through a descriptor that is not
  uint64_t offset = 0;         // of `start`; 0 for anonymous memory
  std::string path;            // kFile
  uint64_t shared_memory = 0;  // kSharedMemory: SharedMemory.id
  // What it is created with; a later difference is not worth losing the pages for.
  uint32_t create_flags = 0;  // MAP_GROWSDOWN, MAP_NORESERVE
  uint64_t file_size = 0;     // FileIdentity; both 0: not to be checked
  int64_t file_modified_ns = 0;
  // What can be changed in place.
  uint32_t protection = 0;
  uint32_t advice = 0;  // bits of model::MappingAdvice
  std::string name;

  [[nodiscard]] uint64_t size() const { return end - start; }
};

// Ascending, disjoint.
using AddressMap = std::vector<Area>;

// Of a checked snapshot (validate.h). Neighbours with equal properties are one area.
[[nodiscard]] AddressMap make_address_map(const model::AddressSpace& memory);

struct AddressRange {
  uint64_t start = 0;
  uint64_t end = 0;
};

struct AddressChanges {
  struct Protect {
    AddressRange range;
    uint32_t protection = 0;
  };
  struct Advise {
    AddressRange range;
    uint32_t from = 0;
    uint32_t to = 0;
  };
  struct Rename {
    AddressRange range;
    std::string name;
  };
  // In the order in which they have to be made.
  std::vector<AddressRange> unmap;
  std::vector<Area> map;
  std::vector<Protect> protect;
  std::vector<Advise> advise;
  std::vector<Rename> rename;

  [[nodiscard]] bool empty() const {
    return unmap.empty() && map.empty() && protect.empty() && advise.empty() && rename.empty();
  }
};

[[nodiscard]] AddressChanges compare(const AddressMap& have, const AddressMap& want);

// Whether [start, end) touches an area.
[[nodiscard]] bool overlaps(const AddressMap& map, uint64_t start, uint64_t end);
// Whether every byte of [start, end) is in an area.
[[nodiscard]] bool covers(const AddressMap& map, uint64_t start, uint64_t end);
// An address at which `size` bytes are free in both maps, with `margin` bytes free on both sides; 0: none.
[[nodiscard]] uint64_t find_hole(const AddressMap& first, const AddressMap& second, uint64_t size,
                                 uint64_t margin);

}  // namespace godwit::runtime::rebuild
