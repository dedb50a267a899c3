// Two processes for memory tests: a source that does to its memory whatever programs do, at random and
// without pause, and a replica that maps what it is told.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <initializer_list>
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
// Written by threads all the time, in their own code and by system calls.
inline constexpr uint64_t kThreads = kEnd + (uint64_t{24} << 20);
inline constexpr uint64_t kThreadPages = 1024;
inline constexpr uint64_t kZoneEnd = kStackTop;
inline constexpr uint64_t kHeapMax = uint64_t{8} << 20;
inline constexpr uint64_t kObjectBytes = (uint64_t{1} << 20) - 3000;  // not whole pages
inline constexpr uint64_t kFileBytes = uint64_t{1} << 20;

// What both processes have open.
struct Objects {
  Fd file;        // mapped privately by both
  Fd source[2];   // [0] is written through mappings only, [1] by descriptor too
  Fd reading[2];  // the same, opened as a migration does
  Fd replica[2];
};
Result<Objects> make_objects();

// A child process; killed and reaped with this object.
class Child {
 public:
  Child() = default;
  // A child that has stopped itself.
  explicit Child(pid_t pid) : pid_(pid) {}
  Child(Child&& other) noexcept : pid_(std::exchange(other.pid_, 0)), stopped_(other.stopped_) {}
  Child& operator=(Child&& other) noexcept {
    std::swap(pid_, other.pid_);
    std::swap(stopped_, other.stopped_);
    return *this;
  }
  ~Child();
  [[nodiscard]] pid_t pid() const { return pid_; }
  [[nodiscard]] bool is_stopped() const { return stopped_; }
  void stop();  // SIGSTOP, and waits until it is stopped
  void go();

 private:
  pid_t pid_ = 0;
  bool stopped_ = true;
};

// A duplicate of a descriptor of the process.
Result<Fd> take_userfaultfd(pid_t pid, uint64_t number);

struct Source {
  Child child;
  Fd userfaultfd;
  uint64_t heap_start = 0;
  const uint64_t* operations = nullptr;  // counted by the child
  const uint64_t* writes = nullptr;      // of its threads
};
// Stopped, it starts when told to go.
Result<Source> start_source(const Objects& objects, uint64_t seed);

// A process that does what it is told, and nothing else.
class Servant {
 public:
  // Its `source` runs.
  static Result<std::unique_ptr<Servant>> start();
  Source source;

  // System calls of the servant; -errno on failure.
  int64_t call(long number, std::initializer_list<uint64_t> arguments);
  // One byte into each of `count` pages, `step` pages apart.
  void store(uint64_t address, uint64_t count, char value, uint64_t step = 1);
  void load(uint64_t address, uint64_t count);
  // A child of it writes `value` to the pages and ends; they are not the servant's.
  void store_in_child(uint64_t address, uint64_t count, char value);
  // Without waiting for the end: ended() is false if it has not come after `timeout_ms`.
  void begin_store(uint64_t address, char value);
  void begin_call(long number, std::initializer_list<uint64_t> arguments);
  void begin_threads(uint64_t count);  // starts and joins so many, one after the other
  // Makes a shared anonymous mapping of changing size with a neighbour on either side, and for `ms` grows,
  // shrinks and moves it as a whole, and checks its content. outcome(): 0, or what went wrong.
  void begin_regrowing(uint64_t ms);
  [[nodiscard]] int64_t outcome() const { return outcome_; }  // of what has ended() last
  bool ended(int timeout_ms);

 private:
  struct Order {
    enum Kind : uint64_t { kCall, kStore, kLoad, kStoreInChild, kThreads, kRegrow } kind;
    uint64_t arguments[7];
  };
  void begin(const Order& order);
  int64_t tell(const Order& order);
  [[noreturn]] static void serve(int channel);
  static int64_t carry_out(const Order& order);
  Fd channel_;
  int64_t outcome_ = 0;
};

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
