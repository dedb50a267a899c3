// What this host has to give: memory, processors, extended processor state.
#pragma once

#include <sys/types.h>

#include <cstdint>

#include "base/result.h"

namespace godwit::engine {

// VmRSS of a process (proc(5) statm), bytes.
Result<uint64_t> resident_bytes(pid_t pid);
// MemAvailable (proc(5) meminfo), bytes.
Result<uint64_t> available_memory_bytes();
// Size of the extended state (x87, SSE, AVX, ...) that threads have here: CPUID leaf 13.
uint32_t extended_state_bytes();
// How many streams a link has unless its user says otherwise: as many as processors can be spared for.
uint32_t default_streams();

}  // namespace godwit::engine
