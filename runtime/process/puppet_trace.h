// What the puppet's own sources share: ptrace(2) with typed data, and what injected calls begin and end with.
#pragma once

#include <sys/ptrace.h>
#include <sys/types.h>
#include <sys/uio.h>

#include <bit>
#include <cstdint>
#include <type_traits>

namespace godwit::runtime {

template <typename Data = uint64_t>
long trace(int request, pid_t tid, uint64_t address = 0, Data data = {}) {
  if constexpr (std::is_pointer_v<Data>) {
    return ::ptrace(static_cast<__ptrace_request>(request), tid, address, data);
  } else {
    return ::ptrace(static_cast<__ptrace_request>(request), tid, address, static_cast<uint64_t>(data));
  }
}

inline constexpr uint64_t kSyscallFlags = 0x202;  // eflags: interrupts on, nothing else

[[nodiscard]] inline bool is_error(int64_t result) {
  constexpr int64_t kErrorMin = -4095;
  return result < 0 && result >= kErrorMin;
}

[[nodiscard]] inline iovec vector_of(const void* start, size_t size) {
  return {.iov_base = const_cast<void*>(start), .iov_len = size};  // NOLINT: iovec knows no const
}

}  // namespace godwit::runtime
