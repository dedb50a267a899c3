// Packet parking: during the cutover, frames for the container are collected instead of lost, and delivered
// at the target.
//
// How. All frames for the container, wherever they come from, enter its network stack at one place: the
// ingress of its interface. A BPF program there asks a word of memory that is shared with us. When it says
// "parked", the program sends the frame back out of the interface; at the host's end of the veth pair a
// second program, which knows such a frame by its source address not being the container's, moves it into a
// tap device, where we read it. There is a single point of decision, so nothing overtakes anything, and no
// frame is dropped on purpose: not even those which had passed the bridge already when parking began. park()
// is one store.
//
// Why it is sound. The danger is data that the frozen container's kernel acknowledges after its socket was
// read: it would be lost. Hence park() stores the word and then waits until every CPU has left the packet
// processing it may have been in (runtime/network/grace.h). A frame is looked at and processed by TCP inside
// one such run, so when park() returns no frame that came before is still on its way into a socket, and none
// that comes after gets in. No timing is assumed. (A segment that waited in a socket's backlog is processed
// when the socket's lock is released, so by the first getsockopt(2) on it.) Fragments of a datagram whose
// other fragments came before park() are lost; TCP sends none, and UDP may lose.
//
// Nor does any frame leave. The frozen container's kernel still has timers: one that sends what was not sent
// yet when its socket was read would bring the peer ahead of the replica, which takes no acknowledgement of
// what it has not sent (RFC 9293, 3.10.7.4), and the connection would stand still for ever. What is kept in
// is sent again, by TCP's own means.
//
// The container's loopback is shut together with it (runtime/network/loopback_gate.h).
//
// A step before it, park_newcomers() takes only what asks for a new TCP connection, so that handshakes end
// and listeners' queues empty while the container still runs.
//
// The programs and the word belong to the interfaces (runtime/network/ingress_filter.h). If this process
// dies, at whatever moment and whoever else dies with it, they stay as they are: from park() on no frame gets
// into the container and none leaves it, until the agent says which way it ends
// (runtime/network/leftovers.h). Only what is collected ends with the process: the tap goes, and frames are
// dropped.
//
// At the target deliver() sends a frame out of the host interface of the attachment, straight to the
// container, past the bridge (so that the bridge does not learn the client's address on the wrong port).
// Packets that reach the target directly may overtake those delivered. Where the strict order matters,
// park_ingress() at the target too before the port is opened there, and unpark() with the frames of the
// source.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "base/fd.h"
#include "base/result.h"
#include "runtime/network/ingress_filter.h"
#include "runtime/network/network.h"

namespace godwit::runtime {

struct ParkingStatistics {
  uint64_t parked = 0;       // frames taken from the container's way (segments of a large frame count each)
  uint64_t read = 0;         // frames that came out of the tap
  uint64_t dropped_own = 0;  // frames of the container that were kept in
  bool order_given_up = false;  // by an unpark()
};

// Not thread-safe, but park() may be called on another thread than prepare().
class ParkingLot {
 public:
  // Makes the tap and attaches the programs, which let everything pass for now. In the network namespace of
  // the host (the caller's). Milliseconds; the container notices nothing. The caller says by it that the
  // container runs here and has no other lot: programs that a dead worker left are removed first.
  static Result<std::unique_ptr<ParkingLot>> prepare(const Attachment& attachment,
                                                     IngressMethod method = best_ingress_method());
  // Removes the tap. Unparks and removes the programs, but not of a sealed lot: its programs stay as after a
  // death.
  virtual ~ParkingLot() = default;
  // After it no new TCP connection to the container begins. Tens of microseconds. A client sends its SYN
  // again after a second: until then nobody notices.
  virtual Result<void> park_newcomers() = 0;
  // After it no frame gets into the container's network stack, none out of it, and no TCP segment goes by its
  // loopback. Tens of microseconds. The container must be stopped: a datagram that it sends to itself would
  // not be waited for.
  virtual Result<void> park() = 0;
  // The same, but own frames pass: for a target, which announces itself.
  virtual Result<void> park_ingress() = 0;
  // For good, whatever becomes of this object and process: called at the commit, before the container is let
  // go. One store, which cannot fail; refused only if not parked.
  virtual Result<void> seal() = 0;
  // The migration failed: back to normal, `unsent` frames are delivered locally first, then what is still
  // parked, in order; packets that come meanwhile queue behind. Under a stream that keeps pace with that,
  // order is given up after 50 ms. The container is open again whatever the result is. Ends a seal().
  virtual Result<void> unpark(const std::vector<std::vector<std::byte>>& unsent) = 0;
  // The migration succeeded, and the target has announced the address: this host's bridge forgets the old
  // place and the port is held, for good. By a socket that prepare() opened. Frames that arrived before are
  // readable until destruction.
  virtual Result<void> forward_elsewhere() = 0;
  // poll(2)able; read_frame returns nothing when there is none. Frames that are not for the container
  // (floods) are dropped; broadcasts and multicasts are for it too.
  [[nodiscard]] virtual int fd() const = 0;
  virtual Result<std::optional<std::vector<std::byte>>> read_frame() = 0;
  [[nodiscard]] virtual ParkingStatistics statistics() const = 0;
};

class FrameDelivery {
 public:
  // Works for a held port as well as for an open one.
  static Result<std::unique_ptr<FrameDelivery>> open(const Attachment& attachment);
  virtual ~FrameDelivery() = default;
  // A whole Ethernet frame, checked for its length only: what it says is the container's business.
  virtual Result<void> deliver(std::span<const std::byte> frame) = 0;
};

}  // namespace godwit::runtime
