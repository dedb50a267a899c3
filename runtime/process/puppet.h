// Puppet: one thread held by ptrace(2), into which system calls are injected in batches.
//
// A batch is an array of {number, six arguments, result} in a scratch mapping inside the thread's address
// space; a loop of a few dozen bytes of machine code executes all of it on one resume. One call costs what 64
// cost.
//
// Threads: every function must be called on the thread that called seize(): ptrace(2) belongs to the tracer
// thread. If that thread ends, the puppet runs on, unless kill_with_tracer() was asked for. From its first
// wait on that thread blocks SIGCHLD, which tells it of stops; block it in the other threads of the process
// too, or they take it and a wait lasts milliseconds longer.
// Ownership: destroying a Puppet that was not released detaches it with its registers restored.
//
// If the tracer dies. Between two calls of this class a stopped thread holds its own registers and its own
// signal mask: it simply runs on. In the middle of run() it is inside the scratch code, which therefore ends
// with a signal to itself (SIGURG, ignored by default) and then rt_sigreturn(2). A living tracer sees the
// signal, discards it and takes over; without one the thread goes through rt_sigreturn, whose frame run() has
// put into the scratch beforehand: all registers, the extended state and the signal mask come back and the
// thread goes on where it was. What remains is this: the rest of the batch is executed (calls of the source
// only ask, or are harmless) under the thread's own seccomp filter again; a call that was interrupted with
// ERESTART_RESTARTBLOCK (poll, nanosleep) returns EINTR; and make_scratch() and drop_scratch() have a window
// of some 20 us each, once in the life of a process, in which a tracer that dies takes the process with it,
// because there is no frame yet, or no more.
//
// Waits. A thread that is asked to stop does so when it leaves the kernel: at once as a rule, but not before
// its child is done if it is in vfork(2), and not before a disk answers, or a server that may be gone. So
// each wait has a bound. A puppet that has not answered in time is still ours, and still on its way to a stop
// in which it would stay: wait for it again, and release it, or end the tracer thread. The kernel then takes
// the request back; that is the only way to let go of a thread that is not stopped, and a safe one at any
// time but in the window above.
//
// Signals. During run() everything but SIGURG is blocked. A SIGURG or a SIGSTOP of somebody else that arrives
// just then is kept, and delivered by release().
#pragma once

#include <signal.h>
#include <sys/types.h>
#include <sys/user.h>

#include <algorithm>
#include <cstdint>
#include <initializer_list>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "base/deadline.h"
#include "base/result.h"

namespace godwit::runtime {

// The private scratch mapping of one address space; shared by all puppets of that process.
// The code is not writable, the rest is not executable (scratch.h). It is listed nowhere in a snapshot.
struct Scratch {
  uint64_t start = 0;
  uint64_t size = 0;
  [[nodiscard]] bool valid() const { return size != 0; }
  [[nodiscard]] bool contains(uint64_t address) const { return address - start < size; }
};

// Where struct rseq of a thread lies (rseq(2)); length 0: not registered.
struct RseqConfiguration {
  uint64_t address = 0;
  uint32_t length = 0;
  uint32_t signature = 0;
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
    Argument(Place place) : value(place.offset), size(place.size), is_place(true) {}  // NOLINT: on purpose
    uint64_t value = 0;
    uint64_t size = 0;
    bool is_place = false;
  };
  // Adds a call; returns its index. `what` names it in error messages ("mmap 7f00-7f01").
  // A call that is not `may_fail` turns an error into the error of Puppet::run, and the calls after it are
  // not made (their result is -ECANCELED).
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
    uint64_t target_size;
  };
  std::vector<Call> calls_;
  std::vector<std::byte> data_;
  std::vector<Link> links_;
};

class Puppet;

// Blocks SIGCHLD in this thread, and so in those that it starts later.
void keep_child_signals();

// A batch and the thread that is to execute it.
struct Injection {
  Puppet* puppet = nullptr;
  CallBatch batch;
  std::string whose = {};  // the process, for error messages
};

class Puppet {
 public:
  // PTRACE_SEIZE and PTRACE_INTERRUPT of the thread `tid` (as this process's pid namespace numbers it),
  // without waiting. Seize all threads first, then wait for each: the waits overlap.
  static Result<std::unique_ptr<Puppet>> seize(pid_t tid, uint64_t extra_options = 0);
  // Takes over a thread that the kernel has attached to us because its parent was seized with
  // PTRACE_O_TRACECLONE, FORK or VFORK. It is on its way to a stop: call wait_stopped().
  static std::unique_ptr<Puppet> adopt(pid_t tid, uint64_t options);
  Puppet(const Puppet&) = delete;
  Puppet& operator=(const Puppet&) = delete;
  ~Puppet();

  // How long a thread may take to answer if nobody says otherwise: any number of others may want its
  // processor.
  static constexpr int64_t kPatienceMs = 30'000;

  // Waits until the thread is stopped, and reads its registers and signal mask. A signal that arrives
  // meanwhile is delivered first: the registers then show the first instruction of its handler. Fails with
  // ESRCH if the thread has died; it is forgotten then. Fails with EAGAIN, and says what holds the thread up,
  // if it has not stopped by `deadline`: it is still seized, and may be waited for again.
  Result<void> wait_stopped(Deadline deadline = Deadline::in_ms(kPatienceMs));
  // Whether it has answered: it is held, and its registers are known.
  [[nodiscard]] bool stopped() const { return seized_ && stopped_; }
  // How long the calls of one run() may take, from here on. One that takes longer is not taken back: run()
  // fails with ETIMEDOUT, and from then on the thread can only be left to itself by the end of the tracer.
  void set_patience_ms(int64_t patience_ms) { patience_ms_ = patience_ms; }

  [[nodiscard]] pid_t tid() const { return tid_; }
  // The registers the thread had when it stopped; what release() puts back unless set_registers was called.
  [[nodiscard]] const user_regs_struct& registers() const { return registers_; }
  void set_registers(const user_regs_struct& registers);
  // The signals it blocked when it stopped (bit n-1: signal n); what it goes on with.
  [[nodiscard]] uint64_t signal_mask() const { return signal_mask_; }
  Result<void> set_signal_mask(uint64_t mask);
  [[nodiscard]] Result<RseqConfiguration> rseq() const;
  // A thread that stopped inside a restartable sequence continues at its abort handler, as the kernel would
  // have it after a preemption. run() does it by itself; call it before registers() are put into a snapshot.
  Result<void> leave_restartable_sequence();

  // Makes the scratch mapping by injected calls, far from other mappings; or adopts one that another puppet
  // of the process made. `children_get_it`: whether a child made by fork(2) inherits it.
  Result<void> make_scratch(uint64_t size = 1U << 20, bool children_get_it = true);
  void adopt_scratch(const Scratch& scratch) { scratch_ = scratch; }
  // Whether the mapping is still there: a process that executes another program loses it.
  [[nodiscard]] bool has_code(const Scratch& scratch) const;
  Result<void> drop_scratch();
  [[nodiscard]] const Scratch& scratch() const { return scratch_; }

  // Executes the batch. Batches larger than the scratch area are cut into several resumes.
  // Fails if the injection fails, or with the first failed call that was not may_fail.
  Result<void> run(CallBatch& batch);
  // Executes a batch in each of several threads, of any processes, at the same time: while one runs, the next
  // is prepared. In no order. After a failure all are stopped again, and the first error is returned; what
  // the others have done is done.
  static Result<void> run_together(std::span<Injection> injections);
  // One call, no memory. Works without a scratch too, at a `syscall` instruction found in the process.
  Result<int64_t> call(long number, std::initializer_list<CallBatch::Argument> arguments,
                       std::string what = {});

  // Threads and processes that injected calls have made since one last asked (tids of our pid namespace), if
  // the puppet was seized with PTRACE_O_TRACECLONE, FORK or VFORK. For adopt().
  [[nodiscard]] std::vector<pid_t> take_newborn() { return std::exchange(newborn_, {}); }

  // Brings stopped threads, at the same time, to a stop that leaves nothing behind if the tracer dies: a stop
  // at the delivery of a signal, as run() ends with, would then deliver that signal (ptrace(2)).
  // `leaders` drop their process's scratch on the way; `others` run no more batches.
  static Result<void> settle_together(std::span<Puppet* const> leaders, std::span<Puppet* const> others);

  // PTRACE_O_EXITKILL on or off: whether the puppet dies with this tracer.
  Result<void> kill_with_tracer(bool on);
  // Restores the registers and detaches; the thread runs on. Fails with EAGAIN if it is not stopped.
  Result<void> release();
  // Forgets the thread without touching it (it is dead, or another owns it).
  void abandon() { seized_ = false; }

 private:
  Puppet(pid_t tid, uint64_t options) : tid_(tid), options_(options), seized_(true) {}

  struct Lane;   // of the scratch
  struct Chunk;  // what one resume executes
  static Lane make_lane(uint64_t start, uint64_t size, size_t calls_max);
  [[nodiscard]] Lane whole_lane() const;
  Result<Chunk> next_chunk(const CallBatch& batch, size_t first, const Lane& lane) const;
  static void resolve(CallBatch& batch, Chunk& chunk, const Lane& lane);
  Result<void> start_chunk(CallBatch& batch, Chunk& chunk, const Lane& lane);
  Result<void> finish_chunk(CallBatch& batch, Chunk& chunk, const Lane& lane);
  Result<void> check_ready();
  Result<void> run_from(CallBatch& batch, size_t first);
  struct Started;
  static Result<void> start_in_lane(Injection& injection, size_t number, std::vector<Started>& started);
  static Result<void> run_group(std::span<Injection> group);
  Result<void> prepare_frame(const Lane& lane);
  Result<void> enter_scratch(const Lane& lane, size_t calls);
  Result<void> leave_scratch();
  Result<void> wait_until_done(Deadline deadline);
  Result<bool> take_stop(int status, uint64_t end);
  Result<void> restore();
  // A single call without a scratch, by two system-call stops.
  Result<int64_t> call_bare(uint64_t number, const uint64_t (&arguments)[6]);
  Result<uint64_t> find_syscall_instruction() const;
  Result<void> wait_for_syscall_stop();
  Result<int> wait_status(Deadline deadline);
  [[nodiscard]] std::string name() const { return "thread " + std::to_string(tid_); }

  pid_t tid_;
  uint64_t options_;
  bool seized_;
  bool stopped_ = false;
  bool lost_ = false;  // in the scratch code, and did not come back in time
  int64_t patience_ms_ = kPatienceMs;
  user_regs_struct registers_{};
  uint64_t signal_mask_ = 0;
  bool sequence_left_ = false;  // leave_restartable_sequence() was done in this stop
  Scratch scratch_;
  std::vector<std::byte> frame_;  // what rt_sigreturn(2) would restore; empty until needed in this stop
  uint64_t frame_address_ = 0;    // it holds at one place only
  std::vector<siginfo_t> held_signals_;
  bool held_stop_ = false;  // a SIGSTOP arrived during run()
  std::vector<pid_t> newborn_;
};

template <typename T>
T CallBatch::read(Place place) const {
  T value{};
  const auto found = bytes(place);
  __builtin_memcpy(&value, found.data(), std::min(found.size(), sizeof value));
  return value;
}

}  // namespace godwit::runtime
