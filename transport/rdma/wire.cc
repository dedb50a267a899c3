#include "transport/rdma/wire.h"

#include <arpa/inet.h>

#include <bit>
#include <cstring>

#include "transport/link_options.h"

namespace godwit::transport {
namespace {

static_assert(std::endian::native == std::endian::little, "the structs are the wire format");

template <typename T>
std::optional<T> copy(std::span<const std::byte> bytes) {
  T message;
  if (bytes.size() < sizeof message) return std::nullopt;
  std::memcpy(&message, bytes.data(), sizeof message);
  if (message.magic != T::kMagic) return std::nullopt;
  return message;
}

}  // namespace

uint32_t pack(const Immediate& immediate) {
  return ::htonl(static_cast<uint32_t>(immediate.kind) << 24 | uint32_t{immediate.stream} << 16 |
                 uint32_t{immediate.slot} << 8);
}

std::optional<Immediate> unpack(uint32_t packed) {
  const uint32_t bits = ::ntohl(packed);
  const Immediate immediate{.kind = static_cast<MessageKind>(bits >> 24),
                            .stream = static_cast<uint8_t>(bits >> 16),
                            .slot = static_cast<uint8_t>(bits >> 8)};
  const bool known = immediate.kind == MessageKind::kBatch || immediate.kind == MessageKind::kCredit ||
                     (immediate.kind == MessageKind::kClose && immediate.slot == 0);
  if (!known || (bits & 0xff) != 0) return std::nullopt;
  return immediate;
}

std::optional<RdmaHello> read_rdma_hello(std::span<const std::byte> bytes, const LinkToken& token) {
  auto hello = copy<RdmaHello>(bytes);
  if (hello && !are_equal(hello->token, token)) return std::nullopt;
  return hello;
}

std::optional<RefusalReason> find_fault(const RdmaHello& hello) {
  if (hello.version != kRdmaProtocolVersion) return RefusalReason::kVersion;
  const LinkOptions options{.streams = hello.streams,
                            .buffer_bytes = hello.buffer_bytes,
                            .buffers_per_stream = hello.buffers_per_stream};
  if (!check_options(options) || hello.stream >= hello.streams || hello.zero != 0)
    return RefusalReason::kOptions;
  return std::nullopt;
}

Result<RdmaWelcome> read_welcome(std::span<const std::byte> bytes, const LinkOptions& options,
                                 const std::string& peer) {
  const auto welcome = copy<RdmaWelcome>(bytes);
  if (!welcome || welcome->version != kRdmaProtocolVersion || welcome->zero != 0)
    return fail("join", peer, EPROTO, "its answer to the hello is no welcome");
  const uint64_t size = uint64_t{welcome->slot_stride} * options.buffers_per_stream;
  if (welcome->slot_stride < options.buffer_bytes || welcome->address == 0 ||
      welcome->address > UINT64_MAX - size)
    return fail("join", peer, EPROTO, "the ring that it offers cannot be");
  return *welcome;
}

RefusalReason read_refusal(std::span<const std::byte> bytes) {
  const auto refusal = copy<RdmaRefusal>(bytes);
  return refusal ? refusal->reason : RefusalReason::kInvalid;
}

}  // namespace godwit::transport
