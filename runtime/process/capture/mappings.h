// The mappings of a process as a snapshot lists them: what file, what shared memory, what advice. What cannot
// be moved is named.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <tuple>
#include <vector>

#include "base/result.h"
#include "runtime/memory/address_space.h"
#include "runtime/process/puppet.h"
#include "runtime/process/snapshot.pb.h"

namespace godwit::runtime {

// Where a shared memory object can be reached: a mapping of it.
struct SharedMemoryPlace {
  pid_t pid = 0;
  uint64_t start = 0;
  uint64_t end = 0;
  uint64_t size = 0;
};

// Reads the mappings of the container's processes, and remembers between rounds what a file is and what
// advice a mapping was given: both need system calls or page-table walks that have no place in a frozen
// round.
class MappingReader {
 public:
  using Complaint = std::function<void(const std::string& object, const std::string& reason)>;

  // Reads smaps: slow for large processes, for live rounds.
  Result<void> refresh_advice(pid_t pid);
  // Fills mappings, vvar_start, vdso_start. The scratch is left out. What cannot be moved goes to `complain`.
  Result<void> read(pid_t pid, const Scratch& scratch, model::AddressSpace& memory,
                    const Complaint& complain);
  void forget(pid_t pid) { advice_.erase(pid); }
  // Objects of anonymous shared memory that the mappings read since the last clear_shared() use; key: the id.
  [[nodiscard]] const std::map<uint64_t, SharedMemoryPlace>& shared() const { return shared_; }
  void clear_shared() { shared_.clear(); }

 private:
  struct File {
    std::string path;
    std::string refusal;  // empty: can be mapped again at the target
    model::FileIdentity identity;
  };
  using FileKey = std::tuple<uint32_t, uint32_t, uint64_t, std::string>;

  const File& file_of(pid_t pid, const Vma& vma);
  [[nodiscard]] uint64_t flags_of(pid_t pid, const Vma& vma) const;
  [[nodiscard]] const Vma* find_same(pid_t pid, const Vma& vma) const;
  Result<bool> is_read_only(pid_t pid, const Vma& vma);
  Result<void> add(pid_t pid, const Vma& vma, model::AddressSpace& memory, const Complaint& complain);
  Result<void> add_shared(pid_t pid, const Vma& vma, model::Mapping& mapping);

  std::map<FileKey, File> files_;
  std::map<pid_t, std::vector<Vma>> advice_;
  std::map<uint64_t, SharedMemoryPlace> shared_;
};

}  // namespace godwit::runtime
