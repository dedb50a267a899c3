// A tap device (Documentation/networking/tuntap.rst): what the kernel sends to it we read, what we write it
// receives. It ends with its descriptor.
#pragma once

#include <cstdint>
#include <string>

#include "base/fd.h"
#include "base/result.h"
#include "runtime/network/address.h"

namespace godwit::runtime {

struct Tap {
  Fd fd;  // non-blocking; one frame per read(2) and write(2), no extra header
  std::string name;
  uint32_t index = 0;
};

// Up, without any address of its own (so that the host's kernel says nothing on it), with room for
// `frames_max` frames. Frames larger than the MTU are segmented, and checksums completed, before they are
// read.
[[nodiscard]] Result<Tap> make_tap(const MacAddress& mac, uint32_t mtu, uint32_t frames_max);

}  // namespace godwit::runtime
