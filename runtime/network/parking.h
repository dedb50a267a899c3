// Packet parking: during the cutover, frames for the container are collected instead of lost, and delivered
// at the target.
//
// Source: a tap device is made a port of the bridge ahead of time. park() points the bridge's forwarding
// entry of the container's MAC at the tap with one netlink message (sticky, so that nothing learns it back);
// unpark() undoes it and puts what was collected back into the container's interface, in order.
// Target: deliver() sends a frame out of the host interface of the attachment, straight to the container,
// past the bridge (so that the bridge does not learn the client's address on the wrong port).
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "base/fd.h"
#include "base/result.h"
#include "runtime/network/network.h"

namespace godwit::runtime {

class ParkingLot {
 public:
  // Makes the tap. In the network namespace of the host (the caller's).
  static Result<std::unique_ptr<ParkingLot>> prepare(const Attachment& attachment);
  virtual ~ParkingLot() = default;  // unparks if parked, removes the tap
  virtual Result<void> park() = 0;
  // The container's own frames are stopped too (its port is held): called at the commit, before it is let go.
  virtual Result<void> seal() = 0;
  // The migration failed: back to normal, `unsent` frames are delivered locally first, then what is still
  // parked.
  virtual Result<void> unpark(const std::vector<std::vector<std::byte>>& unsent) = 0;
  // The migration succeeded: the bridge may learn the new place; frames that still arrive are readable until
  // destruction.
  virtual Result<void> forward_elsewhere() = 0;
  // poll(2)able; read_frame returns nothing when there is none. Frames that are not for the container
  // (floods) are dropped.
  [[nodiscard]] virtual int fd() const = 0;
  virtual Result<std::optional<std::vector<std::byte>>> read_frame() = 0;
};

class FrameDelivery {
 public:
  static Result<std::unique_ptr<FrameDelivery>> open(const Attachment& attachment);
  virtual ~FrameDelivery() = default;
  virtual Result<void> deliver(std::span<const std::byte> frame) = 0;
};

}  // namespace godwit::runtime
