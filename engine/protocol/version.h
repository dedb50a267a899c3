// The version of the control protocol (protocol/session.proto). Peers of different versions refuse each
// other.
#pragma once

#include <cstdint>

namespace godwit::engine {

inline constexpr uint32_t kProtocolVersion = 3;

}  // namespace godwit::engine
