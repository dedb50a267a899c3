// What travels on a stream of an RDMA link. This file is the protocol; docs/transport.md draws it.
//
// A link has 1 .. kStreamsMax streams, each one reliable connection (RC queue pair), all opened by the source
// through the RDMA connection manager:
//
//   source                                            target
//   REQ, private data: RdmaHello               ==>    checks it against the token and the other streams
//                                              <==    REP, private data: RdmaWelcome (where the ring of this
//                                                     stream lies); or REJ, private data: RdmaRefusal
//   RDMA WRITE WITH IMMEDIATE {kBatch, slot}   ==>    the batch lies in that slot; its size is the
//   completion's
//                                              <==    SEND WITH IMMEDIATE {kCredit, slot}: it is released
//   ...
//   SEND WITH IMMEDIATE {kClose}               ==>
//   DREQ                                       ==>    (either end, at any time: the link is over)
//
// A ring has as many slots as the stream has buffers; slot i of the target belongs to buffer i of the source,
// which therefore needs no other flow control than its own buffers: who holds an empty one may write it. Each
// end has a receive posted for every message that the other one may send, so a "receiver not ready" never
// happens between honest peers. Control messages have no payload: all is in the immediate.
//
// There is no barrier message: a barrier is the moment when all credits are back. An end that has heard
// nothing for kProbeNs (rdma_endpoint.h) writes zero bytes, which the other adapter acknowledges by itself,
// so that a dead peer is noticed.
//
// Integers are little-endian, immediates in network order as verbs demand. Private data arrives padded with
// zeros (InfiniBand) and is guarded by the packets' CRC. Zeroed memory is never a valid message. Whoever can
// write into the target's ring can do so at any time, also after the completion: the target copies what it
// checks before it uses it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

#include "base/result.h"
#include "transport/handshake.h"
#include "transport/link.h"

namespace godwit::transport {

inline constexpr uint16_t kRdmaProtocolVersion = 1;

// REQ. The connection manager leaves 56 bytes of a request to its users.
struct RdmaHello {
  static constexpr uint32_t kMagic = 0x48524447;  // "GDRH"
  uint32_t magic = kMagic;
  uint16_t version = kRdmaProtocolVersion;
  uint16_t stream = 0;
  LinkToken token{};
  uint32_t streams = 0;
  uint32_t buffer_bytes = 0;
  uint32_t buffers_per_stream = 0;
  uint32_t zero = 0;
};
static_assert(sizeof(RdmaHello) == 40);

// REP: the ring of this stream, for RDMA WRITE.
struct RdmaWelcome {
  static constexpr uint32_t kMagic = 0x57524447;  // "GDRW"
  uint32_t magic = kMagic;
  uint16_t version = kRdmaProtocolVersion;
  uint16_t zero = 0;
  uint32_t rkey = 0;
  uint32_t slot_stride = 0;  // bytes from one slot to the next
  uint64_t address = 0;      // of slot 0
};
static_assert(sizeof(RdmaWelcome) == 24);

// REJ.
struct RdmaRefusal {
  static constexpr uint32_t kMagic = 0x46524447;  // "GDRF"
  uint32_t magic = kMagic;
  uint32_t zero = 0;
  RefusalReason reason = RefusalReason::kInvalid;
};
static_assert(sizeof(RdmaRefusal) == 16);

// The 32 bits that come with a message: kind, stream, slot, and zero, a byte each.
enum class MessageKind : uint8_t { kInvalid = 0, kBatch = 1, kCredit = 2, kClose = 3 };
struct Immediate {
  MessageKind kind = MessageKind::kInvalid;
  uint8_t stream = 0;
  uint8_t slot = 0;  // 0 for kClose
};
[[nodiscard]] uint32_t pack(const Immediate& immediate);  // in network order
[[nodiscard]] std::optional<Immediate> unpack(uint32_t packed);

// A hello whose magic and token are right; nothing otherwise: such a peer deserves no answer.
std::optional<RdmaHello> read_rdma_hello(std::span<const std::byte> bytes, const LinkToken& token);
// Why this hello cannot be served, or nothing.
std::optional<RefusalReason> find_fault(const RdmaHello& hello);
// EPROTO if it is none, or if what it says cannot be. `peer` is named in errors.
Result<RdmaWelcome> read_welcome(std::span<const std::byte> bytes, const LinkOptions& options,
                                 const std::string& peer);
[[nodiscard]] RefusalReason read_refusal(std::span<const std::byte> bytes);

}  // namespace godwit::transport
