// The parts of a device's number. <sys/sysmacros.h> has them as macros, which would take the names of
// accessors of the snapshot's messages.
#pragma once

#include <sys/sysmacros.h>
#include <sys/types.h>

#undef major
#undef minor
#undef makedev

namespace godwit::runtime {

[[nodiscard]] inline unsigned major_of(dev_t device) {
  return gnu_dev_major(device);
}
[[nodiscard]] inline unsigned minor_of(dev_t device) {
  return gnu_dev_minor(device);
}
[[nodiscard]] inline dev_t device_number(unsigned major, unsigned minor) {
  return gnu_dev_makedev(major, minor);
}

}  // namespace godwit::runtime
