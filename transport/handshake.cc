#include "transport/handshake.h"

#include <sys/random.h>

#include <cstring>

namespace godwit::transport {

const char* describe(RefusalReason reason) {
  switch (reason) {
    case RefusalReason::kVersion:
      return "the target speaks another version of the link protocol";
    case RefusalReason::kOptions:
      return "the target does not accept these counts or sizes of buffers";
    case RefusalReason::kStreamTaken:
      return "the target has a connection for this stream already";
    case RefusalReason::kNoMemory:
      return "the target could not get memory for the buffers";
    case RefusalReason::kLockedMemory:
      return "the target may not lock enough memory: raise RLIMIT_MEMLOCK of its agent (LimitMEMLOCK= in its "
             "unit, ulimit -l), or grant it CAP_IPC_LOCK";
    case RefusalReason::kInvalid:
      break;
  }
  return "the target gave no valid reason";
}

Result<std::string> make_token() {
  std::string token(kTokenBytes, '\0');
  if (::getrandom(token.data(), token.size(), 0) != static_cast<ssize_t>(token.size()))
    return fail("get random bytes for", "the token of a link");
  return token;
}

Result<LinkToken> parse_token(std::string_view text, const char* peer) {
  LinkToken token;
  if (text.size() != token.size())
    return fail("join", peer, EINVAL, "its token has " + std::to_string(text.size()) + " bytes, not 16");
  std::memcpy(token.data(), text.data(), text.size());
  return token;
}

bool are_equal(const LinkToken& left, const LinkToken& right) {
  std::byte difference{0};
  for (size_t i = 0; i < left.size(); ++i) difference |= left[i] ^ right[i];
  return difference == std::byte{0};
}

}  // namespace godwit::transport
