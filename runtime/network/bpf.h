// The few bpf(2) calls that packet parking needs: a shared array, a small program, and what attaches one
// (runtime/network/ingress_filter.h).
#pragma once

#include <linux/bpf.h>

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/fd.h"
#include "base/result.h"

namespace godwit::runtime {

// An array map with one value of `bytes`, which mmap(2) can share with the programs.
[[nodiscard]] Result<Fd> make_shared_value(uint32_t bytes);
// Loads a traffic-control program. The verifier's complaint is part of the error. `name` is what bpftool
// shows and the program is found again by: letters, digits and '_', at most 15.
[[nodiscard]] Result<Fd> load_program(std::span<const bpf_insn> instructions, const std::string& name);

// Whether the kernel has tcx: asks it for the programs of an interface.
[[nodiscard]] bool has_tcx();
// Attaches by tcx at the ingress, in front of every other program, without a link: the interface holds the
// program from then on, until it is detached or the interface goes. This and the functions below look for the
// interface in the network namespace of the calling thread; `name` is its, for errors.
Result<void> attach_tcx_ingress(int program, uint32_t interface, const std::string& name);
Result<void> detach_tcx_ingress(int program, uint32_t interface, const std::string& name);
// The programs at the ingress whose names begin with `prefix`.
[[nodiscard]] Result<std::vector<Fd>> find_tcx_ingress(std::string_view prefix, uint32_t interface,
                                                       const std::string& name);

}  // namespace godwit::runtime
