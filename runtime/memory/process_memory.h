// ProcessMemory: the pages of another process, read and written from outside.
//
// process_vm_readv(2) and process_vm_writev(2) where the mapping's protection allows it, /proc/PID/mem where
// not (it needs ptrace access; the kernel may restrict it by proc_mem.force_override).
//
// Threads: after prepare() any number at once.
#pragma once

#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "base/fd.h"
#include "base/result.h"
#include "runtime/memory/address_space.h"

namespace godwit::runtime {

// As errors name it.
[[nodiscard]] std::string describe(pid_t pid, Range range);

class ProcessMemory {
 public:
  explicit ProcessMemory(pid_t pid) : pid_(pid) {}
  [[nodiscard]] pid_t pid() const { return pid_; }
  // Opens /proc/PID/mem, if it is not open yet.
  Result<void> prepare();

  // Reads the ranges back to back, as far as they are readable: the number of bytes, whole pages. 0: the
  // first page cannot be read. ESRCH: the process is gone.
  Result<size_t> read(std::span<const Range> ranges, std::byte* to) const;
  // The same for one range whatever its protection.
  Result<size_t> read_forced(Range range, std::byte* to);
  // Writes all of the ranges, from `from` back to back, or zeroes.
  Result<void> write(std::span<const Range> ranges, const std::byte* from) const;
  Result<void> write_zeroes(std::span<const Range> ranges) const;

 private:
  Result<void> write_forced(Range range, const std::byte* from) const;
  pid_t pid_;
  Fd mem_;
};

}  // namespace godwit::runtime
