// How the links' errors name what they are about.
#pragma once

#include <cstdint>
#include <string>

namespace godwit::transport {

inline constexpr const char* kSourceEnd = "the source's end of the link";
inline constexpr const char* kTargetEnd = "the target's end of the link";

[[nodiscard]] inline std::string stream_name(uint32_t stream) {
  return "stream " + std::to_string(stream) + " of the link";
}

}  // namespace godwit::transport
