// Checks of a snapshot that came from another host, before a single number of it is used.
//
// Pure functions: no system calls, no state. They bound every count, check every address, pid, signal and
// reference, and leave the meaning to the code that applies it. Whatever passes here can be applied or is
// refused by the kernel with an errno; it cannot make this process read or write out of bounds, allocate
// without limit, or aim at an address, pid or descriptor outside the replica.
#pragma once

#include <cstdint>

#include "base/result.h"
#include "runtime/process/snapshot.pb.h"

namespace godwit::runtime {

// The first address user space cannot have (47 bits, four-level page tables), and the granularity of
// mappings.
inline constexpr uint64_t kTaskSize = 0x7ffffffff000;
inline constexpr uint64_t kPageMask = 4095;

inline constexpr int kProcessesMax = 32768;
inline constexpr int kThreadsMax = 65536;         // in all processes together
inline constexpr int kMappingsMax = 1 << 20;      // of one process
inline constexpr int kDescriptorsMax = 1 << 20;   // of one process
inline constexpr int kPidMax = 4194304;           // PID_MAX_LIMIT of the kernel
inline constexpr int kPosixTimersMax = 65536;     // of one process
inline constexpr int kPendingSignalsMax = 65536;  // of one queue
inline constexpr uint64_t kSharedMemoryMax = uint64_t{1} << 46;

// The part that decides where pages go: processes, their tree, mappings, shared memory.
[[nodiscard]] Result<void> validate_memory(const model::Snapshot& snapshot);
// All of it. A live snapshot may lack registers, a frozen one may not.
[[nodiscard]] Result<void> validate(const model::Snapshot& snapshot);

}  // namespace godwit::runtime
