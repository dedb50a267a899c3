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

#include "base/fd.h"
#include "base/result.h"
#include "runtime/memory/address_space.h"
#include "runtime/process/puppet.h"
#include "runtime/process/snapshot.pb.h"

namespace godwit::runtime {

// A shared-memory object that is mapped.
struct MappedMemory {
  Fd fd;             // for reading, without a trace in its access time (memory/shared_stamps.h)
  std::string name;  // of a memfd, else empty
  bool memfd = false;
  bool in_use = false;  // some mapping of this round is of it
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
  // `frozen`: nothing moves. Else a mapping that is gone from its place by the time it is looked at is left
  // out: the next round finds it where it is then.
  Result<void> read(pid_t pid, const Scratch& scratch, bool frozen, model::AddressSpace& memory,
                    const Complaint& complain);
  void forget(pid_t pid) { advice_.erase(pid); }
  // A round: every process is read, and then the objects that no mapping uses any more are let go.
  void begin_round();
  void end_round();
  // The shared-memory objects of the mappings; key: the id.
  [[nodiscard]] const std::map<uint64_t, MappedMemory>& shared() const { return shared_; }

 private:
  struct File {
    std::string path;
    std::string refusal;  // empty: can be mapped again at the target
    model::FileIdentity identity;
  };
  using FileKey = std::tuple<uint32_t, uint32_t, uint64_t, std::string>;

  Result<const File*> file_of(pid_t pid, const Vma& vma);
  [[nodiscard]] uint64_t flags_of(pid_t pid, const Vma& vma) const;
  [[nodiscard]] const Vma* find_same(pid_t pid, const Vma& vma) const;
  Result<bool> is_read_only(pid_t pid, const Vma& vma);
  // ENOENT: it is gone.
  Result<void> describe(pid_t pid, const Vma& vma, uint64_t flags, model::Mapping& mapping,
                        const Complaint& complain);
  Result<void> add(pid_t pid, const Vma& vma, bool frozen, model::AddressSpace& memory,
                   const Complaint& complain);
  Result<void> add_shared(pid_t pid, const Vma& vma, model::Mapping& mapping);

  std::map<FileKey, File> files_;
  std::map<pid_t, std::vector<Vma>> advice_;
  std::map<uint64_t, MappedMemory> shared_;
};

}  // namespace godwit::runtime
