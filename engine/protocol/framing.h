// Protobuf messages on a stream socket: a 4-byte little-endian length, then the message. At most
// kMessageBytesMax. Thread-safe for one reader and one writer at a time.
#pragma once

#include <google/protobuf/message_lite.h>

#include <cstdint>

#include "base/result.h"

namespace godwit::engine {

inline constexpr uint32_t kMessageBytesMax = 64U << 20;

// Blocking, bounded by `deadline_ns` (monotonic; 0: none). A closed peer is ECONNRESET, a late one ETIMEDOUT.
Result<void> send_message(int socket, const google::protobuf::MessageLite& message, int64_t deadline_ns = 0);
Result<void> receive_message(int socket, google::protobuf::MessageLite& message, int64_t deadline_ns = 0);

}  // namespace godwit::engine
