// How a thread that a tracer stopped shows the system call it was in.
#pragma once

#include <cstdint>

namespace godwit::runtime {

// What an interrupted call has returned (the kernel's include/linux/errno.h).
inline constexpr int64_t kRestartSystemCall = -512;
inline constexpr int64_t kRestartNoInterrupt = -513;
inline constexpr int64_t kRestartNoHandler = -514;
inline constexpr int64_t kRestartBlock = -516;

inline constexpr uint64_t kNoSystemCall = ~uint64_t{0};  // orig_rax outside of a call

}  // namespace godwit::runtime
