// The version of the control protocol (protocol/session.proto). A peer of this version or of the
// one before it is accepted; the first that can be is 4.
#pragma once

#include <cstdint>

namespace godwit::engine {

inline constexpr uint32_t kProtocolVersion = 4;
inline constexpr uint32_t kProtocolVersionLeast = 4;

[[nodiscard]] constexpr bool is_spoken(uint32_t version) {
  return version >= kProtocolVersionLeast && version <= kProtocolVersion;
}

}  // namespace godwit::engine
