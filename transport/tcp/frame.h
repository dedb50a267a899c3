// What travels on a stream of a TCP link. This file is the protocol.
//
// A link has 1 .. kStreamsMax streams, each one TCP connection, all opened by the source:
//
//   source                                         target
//   Hello (64 bytes: token, which stream of how many, sizes)  ==>   checks it against the token and the
//   others
//                                      <==  kWelcome, when every stream is there; or kRefused and the end
//   kBatch  (header, payload)   ==>
//                               <==  kCredit (how many batches of this stream have been released so far)
//   ...
//   kClose  (header)            ==>
//                               <==  end of the stream (FIN); the source may close now
//
// Every frame begins with a FrameHeader of 32 bytes. Numbers are little-endian. Zeroed memory is never a
// valid frame: the magic number differs and type 0 is invalid. Each end checks each field of what it
// receives, also fields that have one possible value only; anything unexpected ends the link with EPROTO.
//
// A connection that ends without kClose is a cut link. There is no barrier frame: every batch is acknowledged
// by a credit, so a barrier is the moment when all credits are back, one round trip after the last batch.
//
// The token keeps strangers of the network out. It travels in clear text: whoever can read the packets
// could read the pages as well.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

#include "base/result.h"
#include "transport/handshake.h"
#include "transport/link.h"
#include "transport/link_options.h"

namespace godwit::transport {

inline constexpr uint16_t kProtocolVersion = 1;

enum class FrameType : uint32_t {
  kInvalid = 0,
  kBatch = 1,    // number: of the batch in its stream, from 0; size: of the payload, 1 .. buffer_bytes
  kCredit = 2,   // number: batches released so far, always growing
  kClose = 3,    // number: batches sent in this stream
  kWelcome = 4,  // number: kProtocolVersion
  kRefused = 5,  // number: a RefusalReason
};

struct FrameHeader {
  static constexpr uint32_t kMagic = 0x4c574447;  // "GDWL"
  uint32_t magic = kMagic;
  FrameType type = FrameType::kInvalid;
  uint32_t size = 0;
  uint32_t zero = 0;
  uint64_t number = 0;
  uint64_t checksum = 0;  // XXH3-64 of the 24 bytes before
};
static_assert(sizeof(FrameHeader) == 32);

struct Hello {
  static constexpr uint32_t kMagic = 0x48574447;  // "GDWH"
  uint32_t magic = kMagic;
  uint16_t version = kProtocolVersion;
  uint16_t stream = 0;
  LinkToken token{};
  uint32_t streams = 0;
  uint32_t buffer_bytes = 0;
  uint32_t buffers_per_stream = 0;
  std::array<uint32_t, 5> zero{};
  uint64_t checksum = 0;  // XXH3-64 of the 56 bytes before
};
static_assert(sizeof(Hello) == 64);

using FrameBytes = std::span<std::byte, sizeof(FrameHeader)>;
using ConstFrameBytes = std::span<const std::byte, sizeof(FrameHeader)>;
using ConstHelloBytes = std::span<const std::byte, sizeof(Hello)>;

void write_frame(FrameBytes into, FrameType type, uint32_t size, uint64_t number);
[[nodiscard]] std::array<std::byte, sizeof(Hello)> make_hello(const LinkToken& token, uint16_t stream,
                                                              const LinkOptions& options);

// The header, if magic, checksum, type and reserved fields are right; else EPROTO, which says what is not.
// What size and number may be depends on the stream's state and is the caller's to check. `peer` is named in
// errors.
Result<FrameHeader> read_frame(ConstFrameBytes bytes, const char* peer);
// A hello whose magic, checksum and token are right; nothing otherwise: such a peer deserves no answer. The
// token is compared in constant time.
std::optional<Hello> read_hello(ConstHelloBytes bytes, const LinkToken& token);
// Why this hello cannot be served, or nothing.
std::optional<RefusalReason> find_fault(const Hello& hello);

}  // namespace godwit::transport
