// Descriptor tables of running or frozen processes: which numbers there are, what stands behind each, and
// which of them share one open file description.
#pragma once

#include <map>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "runtime/process/capture.h"
#include "runtime/process/descriptors/object.h"

namespace godwit::runtime {

struct TableEntry {
  int number = -1;
  std::string link;
};
// Ascending numbers. Entries that vanish meanwhile are left out.
[[nodiscard]] Result<std::vector<TableEntry>> list_table(pid_t pid);

// A duplicate of a descriptor of another process (pidfd_getfd(2)).
class DescriptorThief {
 public:
  [[nodiscard]] Result<Fd> take(pid_t pid, int number);
  void forget() { pidfds_.clear(); }

 private:
  std::map<pid_t, Fd> pidfds_;
};

// Facts of one descriptor from outside. ENOENT and EBADF: it is gone.
[[nodiscard]] Result<ObjectFacts> learn(DescriptorThief& thief, pid_t pid, const TableEntry& entry);

// Where an open file description can be reached.
struct Holder {
  pid_t pid = 0;
  int number = -1;
};

// Finds equal descriptions by kcmp(2), whose order makes this n log n: files of one link are kept in a tree.
class SharingIndex {
 public:
  // Index of the description behind `holder`; a new one (== count before) if it has not been seen.
  Result<size_t> find(const std::string& link, Holder holder);
  [[nodiscard]] const std::vector<Holder>& holders() const { return holders_; }

 private:
  std::map<std::string, std::vector<size_t>> buckets_;  // sorted by the kernel's order
  std::vector<Holder> holders_;
};

}  // namespace godwit::runtime
