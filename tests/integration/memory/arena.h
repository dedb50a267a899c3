// Two processes for memory tests: a source that does to its memory whatever programs do, at random and
// without pause, and a replica that maps what it is told.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <memory>
#include <vector>

#include "base/fd.h"
#include "runtime/memory/address_space.h"
#include "runtime/memory/range_set.h"

namespace godwit::runtime::arena {

inline constexpr uint64_t kStart = 0x200000000000;
inline constexpr uint64_t kPages = 8192;  // 32 MiB, of which the mutator is the master
inline constexpr uint64_t kEnd = kStart + kPages * 4096;
// A mapping of the first object that always stays (though it is replaced at times).
inline constexpr uint64_t kFixedShared = kEnd + (uint64_t{16} << 20);
inline constexpr uint64_t kStackTop = kEnd + (uint64_t{64} << 20);
inline constexpr uint64_t kStackMax = uint64_t{4} << 20;
inline constexpr uint64_t kZoneEnd = kStackTop;
inline constexpr uint64_t kHeapMax = uint64_t{8} << 20;
inline constexpr uint64_t kObjectBytes = (uint64_t{1} << 20) - 3000;  // not whole pages
inline constexpr uint64_t kFileBytes = uint64_t{1} << 20;

// What both processes have open.
struct Objects {
  Fd file;       // mapped privately by both
  Fd source[2];  // [0] is written through mappings only, [1] by descriptor too
  Fd replica[2];
};
Result<Objects> make_objects();

// A child process; killed and reaped with this object.
class Child {
 public:
  Child() = default;
  explicit Child(pid_t pid) : pid_(pid) {}
  Child(Child&& other) noexcept : pid_(std::exchange(other.pid_, 0)) {}
  Child& operator=(Child&& other) noexcept {
    std::swap(pid_, other.pid_);
    return *this;
  }
  ~Child();
  [[nodiscard]] pid_t pid() const { return pid_; }
  void stop() const;  // SIGSTOP, and waits until it is stopped
  void go() const;

 private:
  pid_t pid_ = 0;
};

struct Source {
  Child child;
  Fd userfaultfd;
  uint64_t heap_start = 0;
  const uint64_t* operations = nullptr;  // counted by the child
};
Result<Source> start_source(const Objects& objects, uint64_t seed);

class Replica {
 public:
  static Result<Replica> start(const Objects& objects);
  [[nodiscard]] pid_t pid() const { return child_.pid(); }
  // Brings the mappings to those of the source, by the difference alone.
  Result<void> reconcile(const std::vector<Vma>& vmas, const Objects& objects);
  Result<void> discard(Range range);

 private:
  struct Command;
  Result<void> tell(const Command& command);
  Child child_;
  Fd channel_;
  std::vector<Vma> vmas_;
};

// Which object a shared mapping shows: 0 or 1, by its inode; -1: none.
int object_of(const Vma& vma, const Objects& objects);

}  // namespace godwit::runtime::arena
