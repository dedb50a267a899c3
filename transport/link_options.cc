#include "transport/link_options.h"

#include <string>

namespace godwit::transport {

Result<void> check_options(const LinkOptions& options) {
  const auto out_of_bounds = [](const char* what, uint64_t value, uint64_t max) {
    return fail("set up a link with", std::to_string(value) + " " + what, EINVAL,
                "it may be 1 to " + std::to_string(max));
  };
  if (options.streams == 0 || options.streams > kStreamsMax)
    return out_of_bounds("streams", options.streams, kStreamsMax);
  if (options.buffer_bytes == 0 || options.buffer_bytes > kBufferBytesMax)
    return out_of_bounds("bytes in a buffer", options.buffer_bytes, kBufferBytesMax);
  if (options.buffers_per_stream == 0 || options.buffers_per_stream > kBuffersPerStreamMax)
    return out_of_bounds("buffers in a stream", options.buffers_per_stream, kBuffersPerStreamMax);
  const uint64_t total = uint64_t{options.streams} * options.buffers_per_stream * options.buffer_bytes;
  if (total > kLinkBytesMax) return out_of_bounds("bytes in all buffers", total, kLinkBytesMax);
  return {};
}

}  // namespace godwit::transport
