#include "engine/protocol/framing.h"

#include <poll.h>
#include <sys/socket.h>

#include <array>
#include <cstring>
#include <memory>
#include <span>
#include <string>

#include "base/clock.h"

namespace godwit::engine {
namespace {

// What the kernel says of the connection, in errno; ETIMEDOUT is TCP_USER_TIMEOUT (tcp(7)).
std::unexpected<Error> broken(const char* operation) {
  const int code = errno;
  return fail(operation, "the control connection", code,
              code == ETIMEDOUT
                  ? "it does not answer any more: its process, its host or the network between is gone"
                  : "");
}

// Waits until `socket` is ready for `events`.
Result<void> wait_ready(int socket, short events, int64_t deadline_ns, const char* operation) {
  for (;;) {
    int timeout_ms = -1;
    if (deadline_ns != 0) {
      const int64_t left_ns = deadline_ns - monotonic_ns();
      if (left_ns <= 0)
        return fail(operation, "the control connection", ETIMEDOUT,
                    "the deadline of the migration has passed");
      timeout_ms = static_cast<int>(std::min<int64_t>(left_ns / 1'000'000 + 1, 1'000'000));
    }
    pollfd entry{.fd = socket, .events = events, .revents = 0};
    const int ready = ::poll(&entry, 1, timeout_ms);
    if (ready > 0) return {};
    if (ready < 0 && errno != EINTR) return broken(operation);
  }
}

Result<void> read_exactly(int socket, std::span<std::byte> bytes, int64_t deadline_ns) {
  constexpr const char* kOperation = "receive a message from";
  while (!bytes.empty()) {
    const ssize_t got = ::recv(socket, bytes.data(), bytes.size(), MSG_DONTWAIT);
    if (got > 0) {
      bytes = bytes.subspan(static_cast<size_t>(got));
    } else if (got == 0) {
      return fail(kOperation, "the control connection", ECONNRESET, "the other side closed it");
    } else if (errno == EAGAIN) {
      GODWIT_TRY(wait_ready(socket, POLLIN, deadline_ns, kOperation));
    } else if (errno != EINTR) {
      return broken(kOperation);
    }
  }
  return {};
}

}  // namespace

Result<void> send_message(int socket, const google::protobuf::MessageLite& message, int64_t deadline_ns) {
  const size_t size = message.ByteSizeLong();
  if (size > kMessageBytesMax)
    return fail("send a message to", "the control connection", EMSGSIZE,
                "the container has more processes, mappings or queued data than one message can hold");
  // Length and message leave in one call: with TCP_NODELAY two would be two packets.
  const auto frame = std::make_unique_for_overwrite<uint8_t[]>(sizeof(uint32_t) + size);
  const uint32_t length = static_cast<uint32_t>(size);
  std::memcpy(frame.get(), &length, sizeof length);
  message.SerializeWithCachedSizesToArray(frame.get() + sizeof length);
  std::span<const uint8_t> left(frame.get(), sizeof length + size);
  while (!left.empty()) {
    const ssize_t sent = ::send(socket, left.data(), left.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
    if (sent >= 0) {
      left = left.subspan(static_cast<size_t>(sent));
    } else if (errno == EAGAIN) {
      GODWIT_TRY(wait_ready(socket, POLLOUT, deadline_ns, "send a message to"));
    } else if (errno != EINTR) {
      return broken("send a message to");
    }
  }
  return {};
}

Result<void> receive_message(int socket, google::protobuf::MessageLite& message, int64_t deadline_ns) {
  std::array<std::byte, sizeof(uint32_t)> prefix{};
  GODWIT_TRY(read_exactly(socket, prefix, deadline_ns));
  uint32_t length = 0;
  std::memcpy(&length, prefix.data(), sizeof length);
  if (length > kMessageBytesMax)
    return fail("receive a message from", "the control connection", EPROTO,
                "it announces " + std::to_string(length) + " bytes, more than a message may have");
  const auto bytes = std::make_unique_for_overwrite<std::byte[]>(length);
  GODWIT_TRY(read_exactly(socket, std::span(bytes.get(), length), deadline_ns));
  if (!message.ParseFromArray(bytes.get(), static_cast<int>(length)))
    return fail("receive a message from", "the control connection", EPROTO, "it is malformed");
  return {};
}

}  // namespace godwit::engine
