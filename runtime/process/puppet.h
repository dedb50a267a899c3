// Puppet: one thread held by ptrace(2), into which system calls are injected in batches.
//
// A batch is an array of {number, six arguments, result} in a scratch mapping inside the thread's address
// space; a loop of a few dozen bytes of machine code executes all of it on one resume. One call costs what 64
// cost.
//
// Threads: every function must be called on the thread that called seize(): ptrace(2) belongs to the tracer
// thread. If that thread ends, the puppet runs on, unless kill_with_tracer() was asked for.
// Ownership: destroying a Puppet that was not released detaches it with its registers restored.
#pragma once

#include <sys/types.h>
#include <sys/user.h>

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/result.h"

namespace godwit::runtime {

// The private scratch mapping of one address space; shared by all puppets of that process.
// [code | calls and data]. It is listed nowhere in a snapshot: see is_scratch().
struct Scratch {
  uint64_t start = 0;
  uint64_t size = 0;
};

// A list of system calls with the memory they read and write. Build it, run it, ask it.
class CallBatch {
 public:
  // A place in the batch's data area; converts to the address the injected calls will see.
  struct Place {
    uint64_t offset = 0;
    uint64_t size = 0;
  };
  // Copies `bytes` into the data area (16-byte aligned).
  Place data(std::span<const std::byte> bytes);
  Place text(const std::string& text);  // with its terminating 0
  template <typename T>
  Place object(const T& value) {
    return data(std::as_bytes(std::span(&value, 1)));
  }
  // Reserves `size` zeroed bytes that calls write to.
  Place room(uint64_t size);
  // An argument is a plain value or a Place.
  struct Argument {
    Argument() = default;
    template <typename Integer>
      requires std::is_integral_v<Integer>
    Argument(Integer plain) : value(static_cast<uint64_t>(plain)) {}  // NOLINT: converts on purpose
    Argument(Place place) : value(place.offset), is_place(true) {}    // NOLINT: converts on purpose
    uint64_t value = 0;
    bool is_place = false;
  };
  // Adds a call; returns its index. `what` names it in error messages ("mmap 7f00-7f01").
  // A call that is not `may_fail` turns a negative result into the error of Puppet::run.
  size_t call(long number, std::initializer_list<Argument> arguments, std::string what = {});
  size_t call_may_fail(long number, std::initializer_list<Argument> arguments);

  // Patches a 64-bit word at `offset` bytes inside `where` with the final address of `target`
  // (for pointers inside structures: iovec, msghdr, prctl_mm_map, clone_args).
  void link(Place where, uint64_t offset, Place target);

  [[nodiscard]] bool empty() const { return calls_.empty(); }
  [[nodiscard]] size_t size() const { return calls_.size(); }
  // After run: the raw result of call `index` (-errno on failure), and the bytes of a Place.
  [[nodiscard]] int64_t result(size_t index) const { return calls_[index].result; }
  [[nodiscard]] std::span<const std::byte> bytes(Place place) const;
  template <typename T>
  [[nodiscard]] T read(Place place) const;

 private:
  friend class Puppet;
  struct Call {
    uint64_t number;
    Argument arguments[6];
    int64_t result;
    bool may_fail;
    std::string what;
  };
  struct Link {
    uint64_t where;
    uint64_t target;
  };
  std::vector<Call> calls_;
  std::vector<std::byte> data_;
  std::vector<Link> links_;
};

class Puppet {
 public:
  // PTRACE_SEIZE and PTRACE_INTERRUPT of the thread `tid` (as this process's pid namespace numbers it),
  // without waiting. Seize all threads first, then wait for each: the waits overlap.
  static Result<std::unique_ptr<Puppet>> seize(pid_t tid, uint64_t extra_options = 0);
  Puppet(const Puppet&) = delete;
  Puppet& operator=(const Puppet&) = delete;
  ~Puppet();

  // Waits until the thread is stopped, and reads its registers. A signal that arrives meanwhile is kept for
  // release().
  Result<void> wait_stopped();

  [[nodiscard]] pid_t tid() const { return tid_; }
  // The registers the thread had when it stopped; what release() puts back unless set_registers was called.
  [[nodiscard]] const user_regs_struct& registers() const { return registers_; }
  void set_registers(const user_regs_struct& registers);

  // Makes the scratch mapping by one injected mmap(2), or adopts one that another puppet of the process made.
  Result<void> make_scratch(uint64_t size = 1U << 20);
  void adopt_scratch(const Scratch& scratch) { scratch_ = scratch; }
  Result<void> drop_scratch();
  [[nodiscard]] const Scratch& scratch() const { return scratch_; }

  // Executes the batch. Batches larger than the scratch area are cut into several resumes.
  // Fails if the injection fails, or with the first failed call that was not may_fail.
  Result<void> run(CallBatch& batch);
  // One call, no memory.
  Result<int64_t> call(long number, std::initializer_list<CallBatch::Argument> arguments,
                       std::string what = {});

  // PTRACE_O_EXITKILL on or off: whether the puppet dies with this tracer.
  Result<void> kill_with_tracer(bool on);
  // Restores the registers and detaches; the thread runs on.
  Result<void> release();
  // Forgets the thread without touching it (it is dead, or another owns it).
  void abandon() { seized_ = false; }

 private:
  explicit Puppet(pid_t tid) : tid_(tid) {}
  pid_t tid_;
  bool seized_ = false;
  user_regs_struct registers_{};
  Scratch scratch_;
  std::vector<int> held_signals_;
};

template <typename T>
T CallBatch::read(Place place) const {
  T value{};
  const auto found = bytes(place);
  __builtin_memcpy(&value, found.data(), std::min(found.size(), sizeof value));
  return value;
}

}  // namespace godwit::runtime
