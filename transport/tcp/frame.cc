#include "transport/tcp/frame.h"

#include <xxhash.h>

#include <bit>
#include <cstring>

namespace godwit::transport {
namespace {

static_assert(std::endian::native == std::endian::little, "the structs are the wire format");

template <typename T>
uint64_t checksum_of(const T& frame) {
  return XXH3_64bits(&frame, offsetof(T, checksum));
}

std::unexpected<Error> malformed(const char* peer, std::string why) {
  return fail("read a frame from", peer, EPROTO, std::move(why));
}

}  // namespace

void write_frame(FrameBytes into, FrameType type, uint32_t size, uint64_t number) {
  FrameHeader header{.type = type, .size = size, .number = number};
  header.checksum = checksum_of(header);
  std::memcpy(into.data(), &header, sizeof header);
}

std::array<std::byte, sizeof(Hello)> make_hello(const LinkToken& token, uint16_t stream,
                                                const LinkOptions& options) {
  Hello hello{.stream = stream,
              .token = token,
              .streams = options.streams,
              .buffer_bytes = options.buffer_bytes,
              .buffers_per_stream = options.buffers_per_stream};
  hello.checksum = checksum_of(hello);
  return std::bit_cast<std::array<std::byte, sizeof(Hello)>>(hello);
}

Result<FrameHeader> read_frame(ConstFrameBytes bytes, const char* peer) {
  FrameHeader header;
  std::memcpy(&header, bytes.data(), sizeof header);
  if (header.magic != FrameHeader::kMagic) return malformed(peer, "it begins with a wrong magic number");
  if (header.checksum != checksum_of(header)) return malformed(peer, "the checksum of its header is wrong");
  if (header.zero != 0) return malformed(peer, "a reserved field is not zero");
  if (header.type == FrameType::kInvalid || header.type > FrameType::kRefused)
    return malformed(peer, "its type " + std::to_string(static_cast<uint32_t>(header.type)) + " is unknown");
  if (header.type != FrameType::kBatch && header.size != 0)
    return malformed(peer, "a frame that carries no payload says that it has one");
  return header;
}

std::optional<Hello> read_hello(ConstHelloBytes bytes, const LinkToken& token) {
  Hello hello;
  std::memcpy(&hello, bytes.data(), sizeof hello);
  if (hello.magic != Hello::kMagic || hello.checksum != checksum_of(hello)) return std::nullopt;
  if (!are_equal(hello.token, token)) return std::nullopt;
  return hello;
}

std::optional<RefusalReason> find_fault(const Hello& hello) {
  if (hello.version != kProtocolVersion) return RefusalReason::kVersion;
  const LinkOptions options{.streams = hello.streams,
                            .buffer_bytes = hello.buffer_bytes,
                            .buffers_per_stream = hello.buffers_per_stream};
  if (!check_options(options) || hello.stream >= hello.streams) return RefusalReason::kOptions;
  for (const uint32_t reserved : hello.zero)
    if (reserved != 0) return RefusalReason::kOptions;
  return std::nullopt;
}

}  // namespace godwit::transport
