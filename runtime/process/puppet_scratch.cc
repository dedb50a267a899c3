// The scratch mapping itself, and single calls without one: by two system-call stops at an instruction that
// is found in the process.
#include <fcntl.h>
#include <linux/mman.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <string_view>

#include "base/fd.h"
#include "runtime/memory/address_space.h"
#include "runtime/process/puppet.h"
#include "runtime/process/puppet_trace.h"
#include "runtime/process/restart.h"
#include "runtime/process/scratch.h"

namespace godwit::runtime {
namespace {

constexpr int kSyscallStop = SIGTRAP | 0x80;
constexpr uint64_t kSyscallInstructionSize = 2;

uint64_t page_up(uint64_t value) {
  return (value + kScratchPage - 1) / kScratchPage * kScratchPage;
}

}  // namespace

Result<void> Puppet::wait_for_syscall_stop() {
  for (;;) {
    if (trace(PTRACE_SYSCALL, tid_) != 0) return fail("resume", name());
    // Without a bound: here nobody but we can bring the thread back to itself. What keeps it is at the most
    // another thread of its process that holds the address space's lock.
    GODWIT_ASSIGN(const int status, wait_status(Deadline::never()));
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
  stopped_ = false;
  GODWIT_TRY(wait_stopped());
  return attempt;
}

// Any two bytes 0f 05 that can be executed will do: the thread stops right behind them. The scratch has some,
// and may unmap itself by them, for the thread goes on elsewhere. Without one the process is searched: 150
// us.
Result<uint64_t> Puppet::find_syscall_instruction() const {
  if (has_code(scratch_)) return scratch_.start + scratch_done_offset() - kSyscallInstructionSize;
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
    // The code and the mark are not writable: only a tracer can put them there.
    const std::string path = "/proc/" + std::to_string(tid_) + "/mem";
    GODWIT_ASSIGN(const Fd memory, open_file(path, O_RDWR));
    const auto length = static_cast<size_t>(godwit_scratch_code_end - godwit_scratch_code);
    const ScratchMark mark = make_scratch_mark(scratch);
    const auto mark_place = static_cast<off_t>(scratch.start + kScratchMark);
    if (::pwrite(memory.get(), &mark, sizeof mark, mark_place) != ssize_t{sizeof mark} ||
        ::pwrite(memory.get(), godwit_scratch_code, length, start) != static_cast<ssize_t>(length))
      return fail("write", path);
    const uint64_t data[6] = {scratch.start + kScratchFrame, size - kScratchFrame, PROT_READ | PROT_WRITE};
    GODWIT_ASSIGN(const int64_t protected_, call_bare(SYS_mprotect, data));
    if (is_error(protected_)) return fail("protect the scratch of", name(), static_cast<int>(-protected_));
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
