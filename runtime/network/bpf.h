// The few bpf(2) calls that packet parking needs: a shared array, a small program, an attachment that ends
// with its descriptor.
//
// Programs are attached as tcx links (Linux 6.6): when the process that holds them dies, however it dies, the
// kernel detaches them, and packets flow as if we had never been here.
#pragma once

#include <linux/bpf.h>

#include <span>
#include <string>

#include "base/fd.h"
#include "base/result.h"

namespace godwit::runtime {

// Verdicts of a tcx program (linux/bpf.h: enum tcx_action_base).
inline constexpr int kTcxNext = -1;
inline constexpr int kTcxDrop = 2;

// An array map with one value of `bytes`, which mmap(2) can share with the programs.
[[nodiscard]] Result<Fd> make_shared_value(uint32_t bytes);
// Loads a traffic-control program. The verifier's complaint is part of the error.
[[nodiscard]] Result<Fd> load_program(std::span<const bpf_insn> instructions, const std::string& name);
// In front of every other program at the ingress of the interface, which is looked up in the network
// namespace of the calling thread. Closing the descriptor detaches it.
[[nodiscard]] Result<Fd> attach_ingress(int program, uint32_t interface, const std::string& name);

}  // namespace godwit::runtime
