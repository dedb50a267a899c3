// Seams: borders between VMAs of the replica where the source has none.
//
// The kernel merges neighbouring anonymous VMAs only while their pages have not come from different
// anon_vmas. What a program mapped in one piece can so come to lie in two VMAs of a replica that was put
// together from older pieces, and mremap(2) of it would fail (EFAULT) where it succeeds at the source. The
// way out: all pieces but the largest are mapped anew, empty, which merges them with it, and get their pages
// back. A piece at the beginning may merge with its left neighbour instead, another mapping of the snapshot:
// the kernel prefers that side. Then the mapping is made anew as a whole.
#pragma once

#include <sys/types.h>

#include <cstddef>
#include <vector>

#include "base/result.h"
#include "runtime/memory/address_space.h"
#include "runtime/process/replica/address_map.h"
#include "runtime/process/snapshot.pb.h"

namespace godwit::runtime::rebuild {

enum class Anew { kAllButTheLargest, kWhole };

// What has to be mapped anew so that no anonymous mapping of the snapshot has a border inside. `have`: the
// replica's real VMAs; `map`: the properties of what is mapped there. Pure.
[[nodiscard]] AddressChanges find_seams(const std::vector<Vma>& have, const model::AddressSpace& wanted,
                                        const AddressMap& map, Anew anew);

// The populated pages of some ranges of a process, while they are mapped anew.
class SavedPages {
 public:
  static Result<SavedPages> save(pid_t host_pid, const std::vector<AddressRange>& ranges);
  Result<void> restore() const;

 private:
  pid_t host_pid_ = 0;
  std::vector<Range> ranges_;
  std::vector<std::byte> pages_;
};

}  // namespace godwit::runtime::rebuild
