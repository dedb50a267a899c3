// The BPF programs of packet parking and the memory they share with us.
#pragma once

#include <cstdint>
#include <memory>

#include "base/fd.h"
#include "base/result.h"
#include "runtime/network/address.h"

namespace godwit::runtime {

enum class ParkMode : uint32_t {
  kOpen = 0,
  kParked = 1,
  // Frames are still parked while earlier ones wait to be put back, and pass as soon as none does.
  kDraining = 2,
  kIngressParked = 3,  // what comes in, but not what goes out
  // Only what asks for a new TCP connection is parked.
  kNewcomersParked = 4,
};

// Layout known to the programs; written by both sides without locks, each field by one side.
struct ParkState {
  uint32_t mode;         // ParkMode; ours
  uint32_t sealed;       // ours
  uint64_t parked;       // the programs': frames sent towards the tap
  uint64_t released;     // ours: of these, frames put back or given up
  uint64_t dropped_own;  // the programs'
};

// Frames written to the tap carry this mark up to the container's interface, which lets them in and clears
// it. A mark does not survive the way through a veth pair, so nobody else's frame has it.
inline constexpr int32_t kInjectedMark = 0x60d317;

struct ParkPrograms {
  Fd container;  // ingress of the container's interface
  Fd host;       // ingress of the host's interface
  Fd tap;        // ingress of the tap
};

struct ParkInterfaces {
  uint32_t container;  // index inside the container's namespace
  uint32_t host;
  uint32_t tap;
  MacAddress mac;
};

[[nodiscard]] Result<ParkPrograms> load_park_programs(int state_map, const ParkInterfaces& interfaces);

}  // namespace godwit::runtime
