// A gate in a container's loopback interface, for the time in which its TCP sockets are read or rebuilt.
//
// Frozen processes do not stop their kernel: two sockets of one container go on talking to each other over lo
// (127.0.0.1, ::1, the container's own address), by acknowledgements, pacing, retransmission and probes, and
// never pass the interface that is parked. What one of them acknowledges after it was read would be lost.
// While the gate is shut, no TCP segment reaches a socket by lo. They are dropped: TCP sends them again, and
// as both ends are read within one closure, what the one has in flight is what the other has not received. A
// datagram passes: a stopped container sends none, and one that is put back into a socket's queue comes this
// way (runtime/process/descriptors/udp_target.cc).
//
// The program and the word that it asks belong to the interface (runtime/network/ingress_filter.h), so the
// gate outlives its process as it is; unpark_leftovers() (runtime/network/leftovers.h) removes it.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "base/result.h"
#include "runtime/network/ingress_filter.h"

namespace godwit::runtime {

// Not thread-safe.
class LoopbackGate {
 public:
  // Open. `network_namespace`: the container's, a path. Takes the place of a gate that is there.
  // Milliseconds.
  static Result<LoopbackGate> prepare(const std::string& network_namespace,
                                      IngressMethod method = best_ingress_method());
  // Opens and removes it, unless leave() was called.
  ~LoopbackGate();
  LoopbackGate(LoopbackGate&& other) noexcept;
  LoopbackGate& operator=(LoopbackGate&&) = delete;
  LoopbackGate(const LoopbackGate&) = delete;
  LoopbackGate& operator=(const LoopbackGate&) = delete;

  // One store each, so they cannot fail. A segment may be on its way past a gate that has just been shut
  // until wait_for_packet_processing().
  void shut();
  void open();
  // Stays as it is, as if this process had died.
  void leave();

 private:
  LoopbackGate(uint32_t* word, IngressFilter filter) : word_(word), filter_(std::move(filter)) {}
  uint32_t* word_;  // shared with the program
  IngressFilter filter_;
};

// Whoever left it. No gate is success.
Result<void> remove_loopback_gate(const std::string& network_namespace);

}  // namespace godwit::runtime
