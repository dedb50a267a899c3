// Registers of a thread, made fit for this host and for a thread that no longer sits in a system call. Pure
// functions.
#pragma once

#include <sys/user.h>

#include <cstdint>
#include <string>
#include <vector>

#include "base/result.h"
#include "runtime/process/snapshot.pb.h"

namespace godwit::runtime::rebuild {

// What the kernel would do with an interrupted system call when the thread goes on.
enum class Interruption {
  kNone,            // no handler will run: make the call again
  kHandler,         // a handler runs that was installed without SA_RESTART
  kRestartHandler,  // a handler runs that was installed with SA_RESTART
};

// The handler that runs first when `thread` goes on, judging by the pending signals it does not block.
[[nodiscard]] Interruption find_interruption(const model::Process& process, const model::Thread& thread);

// Rewinds or ends an interrupted system call, as the kernel does on its way to a handler or back to the call.
[[nodiscard]] user_regs_struct resume_registers(user_regs_struct registers, Interruption interruption);

// The extended state in the size this host's kernel wants (ptrace(2) NT_X86_XSTATE: the standard format, XCR0
// at byte 464, XSTATE_BV at 512). Refused if it holds registers that this host does not have.
[[nodiscard]] Result<std::vector<std::byte>> fit_extended_state(const std::string& state, uint64_t host_size,
                                                                uint64_t host_features);

}  // namespace godwit::runtime::rebuild
