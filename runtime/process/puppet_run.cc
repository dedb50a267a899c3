// The execution of batches: cutting them, writing them into the scratch, resuming, reading the results.
#include <elf.h>
#include <fcntl.h>
#include <linux/mman.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include <bit>
#include <cstring>
#include <string_view>

#include "base/fd.h"
#include "runtime/memory/address_space.h"
#include "runtime/process/puppet.h"
#include "runtime/process/puppet_trace.h"
#include "runtime/process/scratch.h"

namespace godwit::runtime {
namespace {

constexpr size_t kExtendedStateMax = kScratchFrameSize;
constexpr uint64_t kSyscallFlags = 0x202;  // eflags: interrupts on, nothing else
constexpr uint64_t kNoSystemCall = ~uint64_t{0};
constexpr int64_t kErrorMin = -4095;
constexpr int kSyscallStop = SIGTRAP | 0x80;

bool is_error(int64_t result) {
  return result < 0 && result >= kErrorMin;
}

iovec vector_of(const void* start, size_t size) {
  return {.iov_base = const_cast<void*>(start), .iov_len = size};  // NOLINT: iovec knows no const
}

uint64_t page_up(uint64_t value) {
  return (value + kScratchPage - 1) / kScratchPage * kScratchPage;
}

}  // namespace

// Calls [first, last) of a batch and the run of data they need.
struct Puppet::Chunk {
  size_t first = 0;
  size_t last = 0;
  uint64_t data_start = 0;
  uint64_t data_end = 0;

  void include(uint64_t start, uint64_t end) {
    if (data_start == data_end) {
      data_start = start;
      data_end = end;
    } else {
      data_start = std::min(data_start, start);
      data_end = std::max(data_end, end);
    }
  }
  [[nodiscard]] bool holds(uint64_t offset) const { return offset >= data_start && offset < data_end; }
};

// Takes as many calls as fit. Data is used by the calls beside which it was made, as a rule, so the run from
// the first to the last byte that a chunk touches is short.
Result<Puppet::Chunk> Puppet::next_chunk(const CallBatch& batch, size_t first) const {
  Chunk chunk{.first = first, .last = first};
  const uint64_t space = scratch_.size - kScratchData;
  while (chunk.last < batch.calls_.size() && chunk.last - first < kChunkCallsMax) {
    Chunk next = chunk;
    ++next.last;
    for (const auto& argument : batch.calls_[chunk.last].arguments)
      if (argument.is_place) next.include(argument.value, argument.value + argument.size);
    for (bool grown = true; grown;) {  // pointers inside the data pull in what they point to
      grown = false;
      for (const auto& link : batch.links_) {
        if (!next.holds(link.where)) continue;
        const Chunk before = next;
        next.include(link.target, link.target + link.target_size);
        grown = grown || next.data_start != before.data_start || next.data_end != before.data_end;
      }
    }
    if (next.data_end - next.data_start > space) break;
    chunk = next;
  }
  if (chunk.last == first)
    return fail("inject into", name(), E2BIG,
                batch.calls_[first].what + " needs more memory than the scratch has");
  return chunk;
}

Result<void> Puppet::write(uint64_t address, std::span<const std::byte> bytes) const {
  const iovec local = vector_of(bytes.data(), bytes.size());
  const iovec remote = vector_of(std::bit_cast<void*>(address), bytes.size());
  if (::process_vm_writev(tid_, &local, 1, &remote, 1, 0) != static_cast<ssize_t>(bytes.size()))
    return fail("write the scratch of", name());
  return {};
}

Result<void> Puppet::prepare_frame() {
  if (!frame_.empty()) return {};
  std::vector<std::byte> state(kExtendedStateMax);
  iovec place = vector_of(state.data(), state.size());
  if (trace(PTRACE_GETREGSET, tid_, NT_X86_XSTATE, &place) != 0)
    return fail("read the extended registers of", name());
  GODWIT_ASSIGN(frame_, make_return_frame(registers_, signal_mask_, std::span(state).first(place.iov_len),
                                          scratch_.start + kScratchFrame));
  return {};
}

Result<void> Puppet::run_chunk(CallBatch& batch, const Chunk& chunk) {
  const uint64_t data_address = scratch_.start + kScratchData;
  const auto final_address = [&](uint64_t offset) { return data_address + (offset - chunk.data_start); };
  for (const auto& link : batch.links_) {
    if (!chunk.holds(link.where)) continue;
    const uint64_t address = final_address(link.target);
    std::memcpy(batch.data_.data() + link.where, &address, sizeof address);
  }
  std::vector<ScratchCall> calls;
  calls.reserve(chunk.last - chunk.first);
  for (size_t i = chunk.first; i < chunk.last; ++i) {
    const auto& from = batch.calls_[i];
    ScratchCall to{.number = from.number, .arguments = {}, .result = from.may_fail ? 0 : 1};
    for (size_t k = 0; k < std::size(to.arguments); ++k)
      to.arguments[k] =
          from.arguments[k].is_place ? final_address(from.arguments[k].value) : from.arguments[k].value;
    calls.push_back(to);
  }
  // Whoever dies with its tracer needs no way back.
  if ((options_ & PTRACE_O_EXITKILL) == 0) GODWIT_TRY(prepare_frame());

  const uint64_t data_size = chunk.data_end - chunk.data_start;
  const iovec local[] = {vector_of(frame_.data(), frame_.size()),
                         vector_of(calls.data(), calls.size() * sizeof(ScratchCall)),
                         vector_of(batch.data_.data() + chunk.data_start, data_size)};
  const uint64_t addresses[] = {scratch_.start + kScratchFrame, scratch_.start + kScratchCalls, data_address};
  iovec remote[3];
  size_t total = 0;
  for (size_t i = 0; i < 3; ++i) {
    remote[i] = vector_of(std::bit_cast<void*>(addresses[i]), local[i].iov_len);
    total += local[i].iov_len;
  }
  if (::process_vm_writev(tid_, local, 3, remote, 3, 0) != static_cast<ssize_t>(total))
    return fail("write the scratch of", name());
  GODWIT_TRY(execute_scratch(calls.size()));
  if (::process_vm_readv(tid_, local + 1, 2, remote + 1, 2, 0) !=
      static_cast<ssize_t>(total - local[0].iov_len))
    return fail("read the scratch of", name());

  for (size_t i = chunk.first; i < chunk.last; ++i) {
    auto& call = batch.calls_[i];
    call.result = calls[i - chunk.first].result;
    if (call.may_fail || !is_error(call.result)) continue;
    return fail(call.what.empty() ? "inject system call " + std::to_string(call.number) : call.what,
                "in " + name(), static_cast<int>(-call.result));
  }
  return {};
}

Result<void> Puppet::run(CallBatch& batch) {
  if (batch.empty()) return {};
  if (!seized_ || !stopped_) return fail("inject into", name(), ESRCH, "it is not stopped by us");
  if (!scratch_.valid()) return refuse("inject into", name(), "it has no scratch mapping");
  GODWIT_TRY(leave_restartable_sequence());
  for (size_t next = 0; next < batch.calls_.size();) {
    GODWIT_ASSIGN(const Chunk chunk, next_chunk(batch, next));
    GODWIT_TRY(run_chunk(batch, chunk));
    next = chunk.last;
  }
  return {};
}

Result<int64_t> Puppet::call(long number, std::initializer_list<CallBatch::Argument> arguments,
                             std::string what) {
  if (scratch_.valid()) {
    CallBatch batch;
    batch.call(number, arguments, std::move(what));
    GODWIT_TRY(run(batch));
    return batch.result(0);
  }
  uint64_t plain[6] = {};
  size_t count = 0;
  for (const auto& argument : arguments)
    if (count < std::size(plain)) plain[count++] = argument.value;
  GODWIT_ASSIGN(const int64_t result, call_bare(static_cast<uint64_t>(number), plain));
  if (is_error(result))
    return fail(what.empty() ? "inject system call " + std::to_string(number) : what, "in " + name(),
                static_cast<int>(-result));
  return result;
}

// The thread's own registers and mask come back whatever happens in between.
Result<void> Puppet::execute_scratch(size_t calls) {
  user_regs_struct registers = registers_;
  registers.rip = scratch_.start;
  registers.r12 = scratch_.start + kScratchCalls;
  registers.r13 = calls;
  registers.rsp = scratch_.start + kScratchFrame + sizeof(uint64_t);
  registers.eflags = kSyscallFlags;
  registers.orig_rax = kNoSystemCall;
  // The registers before the mask: what dies with a tracer between the two must not keep a foreign mask, and
  // comes back from its frame.
  if (trace(PTRACE_SETREGS, tid_, 0, &registers) != 0) return fail("set the registers of", name());
  const uint64_t mask = kRunMask;
  if (trace(PTRACE_SETSIGMASK, tid_, sizeof mask, &mask) != 0) {
    const int code = errno;
    static_cast<void>(restore());
    return fail("set the signal mask of", name(), code);
  }
  auto done = resume_until_done();
  if (!seized_) return done;
  const auto restored = restore();
  return done.has_value() ? restored : done;
}

Result<void> Puppet::resume_until_done() {
  const uint64_t end = scratch_.start + scratch_done_offset();
  uint64_t signal = 0;
  for (;;) {
    if (trace(PTRACE_CONT, tid_, 0, signal) != 0) return fail("resume", name());
    signal = 0;
    GODWIT_ASSIGN(const int status, wait_status());
    const int event = status >> 16;
    if (event == PTRACE_EVENT_CLONE || event == PTRACE_EVENT_FORK || event == PTRACE_EVENT_VFORK) {
      uint64_t child = 0;
      if (trace(PTRACE_GETEVENTMSG, tid_, 0, &child) == 0) newborn_.push_back(static_cast<pid_t>(child));
      continue;
    }
    if (event != 0) continue;
    if (WSTOPSIG(status) == SIGSTOP) {
      held_stop_ = true;
      continue;
    }
    if (WSTOPSIG(status) != kDoneSignal)
      return fail(
          "inject into", name(), 0,
          "it was stopped by signal " + std::to_string(WSTOPSIG(status)) + " inside the scratch code");
    user_regs_struct now{};
    if (trace(PTRACE_GETREGS, tid_, 0, &now) != 0) return fail("read the registers of", name());
    siginfo_t information{};
    if (trace(PTRACE_GETSIGINFO, tid_, 0, &information) != 0) return fail("read a signal of", name());
    if (now.rip == end && information.si_code == SI_TKILL) return {};
    held_signals_.push_back(information);
  }
}

Result<void> Puppet::restore() {
  if (trace(PTRACE_SETSIGMASK, tid_, sizeof signal_mask_, &signal_mask_) != 0)
    return fail("restore the signal mask of", name());
  if (trace(PTRACE_SETREGS, tid_, 0, &registers_) != 0) return fail("restore the registers of", name());
  return {};
}

Result<void> Puppet::wait_for_syscall_stop() {
  for (;;) {
    if (trace(PTRACE_SYSCALL, tid_) != 0) return fail("resume", name());
    GODWIT_ASSIGN(const int status, wait_status());
    if (WSTOPSIG(status) == kSyscallStop && status >> 16 == 0) return {};
    if (status >> 16 != 0) continue;
    if (WSTOPSIG(status) == SIGSTOP) {
      held_stop_ = true;
      continue;
    }
    return fail("inject into", name(), 0, "it was stopped by signal " + std::to_string(WSTOPSIG(status)));
  }
}

Result<int64_t> Puppet::call_bare(uint64_t number, const uint64_t (&arguments)[6]) {
  if (!seized_ || !stopped_) return fail("inject into", name(), ESRCH, "it is not stopped by us");
  GODWIT_TRY(leave_restartable_sequence());
  GODWIT_ASSIGN(const uint64_t instruction, find_syscall_instruction());
  user_regs_struct registers = registers_;
  registers.rip = instruction;
  registers.rax = number;
  registers.rdi = arguments[0];
  registers.rsi = arguments[1];
  registers.rdx = arguments[2];
  registers.r10 = arguments[3];
  registers.r8 = arguments[4];
  registers.r9 = arguments[5];
  registers.eflags = kSyscallFlags;
  registers.orig_rax = kNoSystemCall;
  const uint64_t everything = ~uint64_t{0};
  if (trace(PTRACE_SETSIGMASK, tid_, sizeof everything, &everything) != 0)
    return fail("set the signal mask of", name());
  auto attempt = [&]() -> Result<int64_t> {
    if (trace(PTRACE_SETREGS, tid_, 0, &registers) != 0) return fail("set the registers of", name());
    GODWIT_TRY(wait_for_syscall_stop());
    GODWIT_TRY(wait_for_syscall_stop());
    if (trace(PTRACE_GETREGS, tid_, 0, &registers) != 0) return fail("read the registers of", name());
    return static_cast<int64_t>(registers.rax);
  }();
  if (!seized_) return attempt;
  GODWIT_TRY(restore());
  // From the exit of a system call the kernel would not restart the one that the stop had interrupted: go
  // on to an ordinary stop, which lies before the next instruction of the thread.
  if (trace(PTRACE_INTERRUPT, tid_) != 0 || trace(PTRACE_CONT, tid_) != 0) return fail("interrupt", name());
  GODWIT_TRY(wait_stopped());
  return attempt;
}

// Any two bytes 0f 05 that can be executed will do: the thread stops right behind them.
Result<uint64_t> Puppet::find_syscall_instruction() const {
  GODWIT_ASSIGN(auto mappings, read_maps(tid_));
  std::ranges::stable_sort(mappings, {}, [](const Vma& vma) { return vma.name != "[vdso]"; });
  std::string bytes;
  for (const Vma& vma : mappings) {
    if (!vma.executable || !vma.readable || vma.name == "[vsyscall]") continue;
    bytes.resize(std::min<uint64_t>(vma.end - vma.start, 1U << 20));
    const iovec local = vector_of(bytes.data(), bytes.size());
    const iovec remote = vector_of(std::bit_cast<void*>(vma.start), bytes.size());
    const ssize_t got = ::process_vm_readv(tid_, &local, 1, &remote, 1, 0);
    if (got <= 0) continue;
    const size_t found = std::string_view(bytes).substr(0, static_cast<size_t>(got)).find("\x0f\x05");
    if (found != std::string_view::npos) return vma.start + found;
  }
  return refuse("inject into", name(), "no system call instruction in its executable mappings");
}

namespace {

// The middle of the widest gap: far from where the process's own mappings grow, and never beside one, with
// which the kernel would merge it.
Result<uint64_t> choose_place(pid_t tid, uint64_t size) {
  GODWIT_ASSIGN(const auto mappings, read_maps(tid));
  uint64_t best_start = 0, best_size = 0, last = uint64_t{1} << 32U;
  for (const Vma& vma : mappings) {
    if (vma.start > uint64_t{1} << 47U) break;
    if (vma.start > last && vma.start - last > best_size) {
      best_start = last;
      best_size = vma.start - last;
    }
    last = std::max(last, vma.end);
  }
  if (best_size < 4 * size)
    return fail("find room for the scratch of", "thread " + std::to_string(tid), ENOMEM);
  return (best_start + best_size / 2) / kScratchPage * kScratchPage;
}

}  // namespace

Result<void> Puppet::make_scratch(uint64_t size, bool children_get_it) {
  size = page_up(std::max(size, kScratchSizeMin));
  GODWIT_ASSIGN(const uint64_t place, choose_place(tid_, size));
  const uint64_t mmap_arguments[6] = {place,
                                      size,
                                      PROT_READ | PROT_EXEC,
                                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE,
                                      ~uint64_t{0},
                                      0};
  GODWIT_ASSIGN(const int64_t start, call_bare(SYS_mmap, mmap_arguments));
  if (is_error(start)) return fail("map the scratch of", name(), static_cast<int>(-start));
  const Scratch scratch{.start = static_cast<uint64_t>(start), .size = size};

  const auto fill = [&]() -> Result<void> {
    const uint64_t data[6] = {scratch.start + kScratchFrame, size - kScratchFrame, PROT_READ | PROT_WRITE};
    GODWIT_ASSIGN(const int64_t protected_, call_bare(SYS_mprotect, data));
    if (is_error(protected_)) return fail("protect the scratch of", name(), static_cast<int>(-protected_));
    // The code is not writable: only a tracer can put it there.
    const std::string path = "/proc/" + std::to_string(tid_) + "/mem";
    GODWIT_ASSIGN(const Fd memory, open_file(path, O_RDWR));
    const auto length = static_cast<size_t>(godwit_scratch_code_end - godwit_scratch_code);
    if (::pwrite(memory.get(), godwit_scratch_code, length, start) != static_cast<ssize_t>(length))
      return fail("write", path);
    scratch_ = scratch;
    CallBatch batch;
    batch.call(SYS_madvise, {scratch.start, size, MADV_DONTDUMP}, "madvise of the scratch");
    if (!children_get_it)
      batch.call(SYS_madvise, {scratch.start, size, MADV_DONTFORK}, "madvise of the scratch");
    return run(batch);
  };
  const auto filled = fill();
  if (filled.has_value()) return {};
  scratch_ = {};
  const uint64_t whole[6] = {scratch.start, size};
  if (seized_) static_cast<void>(call_bare(SYS_munmap, whole));
  return filled;
}

bool Puppet::has_code(const Scratch& scratch) const {
  std::byte found[256];
  const auto length = static_cast<size_t>(godwit_scratch_code_end - godwit_scratch_code);
  if (!scratch.valid() || length > sizeof found) return false;
  const iovec local = vector_of(found, length);
  const iovec remote = vector_of(std::bit_cast<void*>(scratch.start), length);
  return ::process_vm_readv(tid_, &local, 1, &remote, 1, 0) == static_cast<ssize_t>(length) &&
         std::memcmp(found, godwit_scratch_code, length) == 0;
}

Result<void> Puppet::drop_scratch() {
  if (!scratch_.valid()) return {};
  const uint64_t whole[6] = {scratch_.start, scratch_.size};
  GODWIT_ASSIGN(const int64_t result, call_bare(SYS_munmap, whole));
  if (is_error(result)) return fail("unmap the scratch of", name(), static_cast<int>(-result));
  scratch_ = {};
  return {};
}

}  // namespace godwit::runtime
