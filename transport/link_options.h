// What every implementation of a link accepts: the bounds of LinkOptions.
#pragma once

#include <cstdint>

#include "base/result.h"
#include "transport/link.h"

namespace godwit::transport {

inline constexpr uint32_t kBuffersPerStreamMax = 64;
inline constexpr uint64_t kLinkBytesMax = uint64_t{512} << 20;  // of all buffers at one end

// EINVAL if the options are outside these bounds or those of link.h; it names the value and what it may be.
Result<void> check_options(const LinkOptions& options);

}  // namespace godwit::transport
