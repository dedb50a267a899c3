// The few bpf(2) calls that packet parking needs: a shared array, a small program, and what attaches one
// (runtime/network/ingress_filter.h).
#pragma once

#include <linux/bpf.h>

#include <span>
#include <string>

#include "base/fd.h"
#include "base/result.h"

namespace godwit::runtime {

// An array map with one value of `bytes`, which mmap(2) can share with the programs.
[[nodiscard]] Result<Fd> make_shared_value(uint32_t bytes);
// Loads a traffic-control program. The verifier's complaint is part of the error.
[[nodiscard]] Result<Fd> load_program(std::span<const bpf_insn> instructions, const std::string& name);
// A program array (BPF_MAP_TYPE_PROG_ARRAY) with this program in its only slot. The kernel empties it when
// its last descriptor is closed, even if programs that use it live on.
[[nodiscard]] Result<Fd> make_program_array(int program);

// Whether the kernel has tcx: asks it for the programs of an interface.
[[nodiscard]] bool has_tcx();
// A tcx link at the ingress, in front of every other program. The interface is looked up in the network
// namespace of the calling thread. Closing the descriptor detaches it.
[[nodiscard]] Result<Fd> link_tcx_ingress(int program, uint32_t interface, const std::string& name);

}  // namespace godwit::runtime
