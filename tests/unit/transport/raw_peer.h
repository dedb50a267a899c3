// Peers that speak to one end of a TCP link by plain sockets, and not always what they should.
#pragma once

#include <sys/socket.h>
#include <xxhash.h>

#include <array>
#include <cstring>
#include <memory>
#include <random>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "tests/unit/transport/links.h"
#include "transport/tcp/frame.h"
#include "transport/tcp/socket.h"

namespace godwit::transport::test {

using Bytes = std::vector<std::byte>;

inline LinkToken token_of(const std::string& token) {
  LinkToken made{};
  std::memcpy(made.data(), token.data(), made.size());
  return made;
}

template <typename T>
Bytes bytes_of(const T& frame) {
  const auto bytes = std::as_bytes(std::span(&frame, 1));
  return {bytes.begin(), bytes.end()};
}

// With the right checksum, whatever it says.
inline Bytes seal(FrameHeader header) {
  header.checksum = XXH3_64bits(&header, offsetof(FrameHeader, checksum));
  return bytes_of(header);
}
inline Bytes seal_hello(Hello hello) {
  hello.checksum = XXH3_64bits(&hello, offsetof(Hello, checksum));
  return bytes_of(hello);
}

inline Bytes head(Bytes bytes, size_t size) {
  bytes.resize(size);
  return bytes;
}

inline Bytes random_bytes(std::mt19937& random, size_t size) {
  Bytes bytes(size);
  for (std::byte& each : bytes) each = static_cast<std::byte>(random());
  return bytes;
}

// What cannot be sent any more because the other end has dropped us is lost.
inline void say(const Fd& socket, std::span<const std::byte> bytes) {
  static_cast<void>(send_all(socket.get(), bytes, in_seconds(5)));
}

// The next frame of the other end.
inline Result<FrameHeader> hear(const Fd& socket) {
  std::array<std::byte, sizeof(FrameHeader)> bytes{};
  GODWIT_TRY(receive_all(socket.get(), bytes, in_seconds(5)));
  return read_frame(bytes, "the peer");
}

// Whether the other end closes this connection in time; what it says before is skipped.
inline bool is_dropped(const Fd& socket) {
  for (std::array<std::byte, 1> byte{};;) {
    const auto received = receive_all(socket.get(), byte, in_seconds(5));
    if (!received) return received.error().code != ETIMEDOUT;
  }
}

// Closing sends a RST instead of a FIN (socket(7) SO_LINGER).
inline void reset_connection(Fd& socket) {
  const linger now{.l_onoff = 1, .l_linger = 0};
  static_cast<void>(::setsockopt(socket.get(), SOL_SOCKET, SO_LINGER, &now, sizeof now));
  socket.reset();
}

}  // namespace godwit::transport::test
