// ptrace(2) with typed data, for the puppet's own sources.
#pragma once

#include <sys/ptrace.h>
#include <sys/types.h>

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

}  // namespace godwit::runtime
