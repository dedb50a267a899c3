// What the handshakes of all links have in common: the token that keeps strangers out, and the reasons for
// which a target refuses one that knows it.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "base/result.h"

namespace godwit::transport {

inline constexpr size_t kTokenBytes = 16;
using LinkToken = std::array<std::byte, kTokenBytes>;

enum class RefusalReason : uint64_t {
  kInvalid = 0,
  kVersion = 1,       // the target speaks another version of the protocol
  kOptions = 2,       // a size or a count is out of bounds, or differs from another stream's
  kStreamTaken = 3,   // there is a connection for this stream already
  kNoMemory = 4,      // the target could not get the buffers
  kLockedMemory = 5,  // the target may not lock the buffers in memory (RDMA)
};
const char* describe(RefusalReason reason);

// Random.
Result<std::string> make_token();
// EINVAL if it is none. `peer` is named in the error.
Result<LinkToken> parse_token(std::string_view text, const char* peer);
// In constant time.
[[nodiscard]] bool are_equal(const LinkToken& left, const LinkToken& right);

}  // namespace godwit::transport
