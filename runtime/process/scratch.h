// The layout of a scratch mapping, for the puppet's own sources. The code is in scratch_code.S.
#pragma once

#include <signal.h>
#include <sys/user.h>

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "base/result.h"
#include "runtime/process/puppet.h"

// NOLINTBEGIN: symbols of scratch_code.S
extern "C" {
extern const std::byte godwit_scratch_code[];
extern const std::byte godwit_scratch_done[];
extern const std::byte godwit_scratch_code_end[];
}
// NOLINTEND

namespace godwit::runtime {

// [code | data of the threads]. What lies behind the code belongs to the one thread that runs a batch, or is
// divided into lanes, one for each of several threads that run batches at the same time. Either is
// [return frame | calls | data].
inline constexpr uint64_t kScratchPage = 4096;
inline constexpr uint64_t kScratchFrame = kScratchPage;          // offset of the frame for rt_sigreturn
inline constexpr uint64_t kScratchFrameSize = 4 * kScratchPage;  // holds any extended state up to AMX
inline constexpr size_t kChunkCallsMax = 256;                    // calls executed by one resume
inline constexpr size_t kScratchLanes = 8;
inline constexpr size_t kLaneCallsMax = 128;
inline constexpr uint64_t kLaneSize = 8 * kScratchPage;
inline constexpr uint64_t kScratchSizeMin = kScratchFrame + kScratchLanes * kLaneSize;
inline constexpr uint64_t kScratchSizeMax = uint64_t{1} << 30;

// Behind the code, at the end of its page: by this a scratch is known whose tracer has died (leftovers.h). It
// names its own place, so that no copy of it is taken for one.
struct ScratchMark {
  char text[16];
  uint64_t start;
  uint64_t size;
  friend bool operator==(const ScratchMark&, const ScratchMark&) = default;
};
inline constexpr uint64_t kScratchMark = kScratchPage - sizeof(ScratchMark);
[[nodiscard]] inline ScratchMark make_scratch_mark(const Scratch& scratch) {
  return {.text = "godwit scratch\n", .start = scratch.start, .size = scratch.size};
}

// One call as the scratch code sees it.
struct ScratchCall {
  uint64_t number;
  uint64_t arguments[6];
  int64_t result;
};
static_assert(sizeof(ScratchCall) == 64);

inline constexpr int kDoneSignal = SIGURG;
// What is blocked while scratch code runs: all but kDoneSignal.
inline constexpr uint64_t kRunMask = ~(uint64_t{1} << (kDoneSignal - 1));

// The offset of the instruction at which a finished batch stops.
[[nodiscard]] inline uint64_t scratch_done_offset() {
  return static_cast<uint64_t>(godwit_scratch_done - godwit_scratch_code);
}

// The frame that rt_sigreturn(2) needs to put a thread back to `registers`, `mask` and the extended state
// `xstate` (as PTRACE_GETREGSET NT_X86_XSTATE gives it), if it lies at `address`. A system call that was
// interrupted is set back to be made again.
Result<std::vector<std::byte>> make_return_frame(const user_regs_struct& registers, uint64_t mask,
                                                 std::span<const std::byte> xstate, uint64_t address);

}  // namespace godwit::runtime
