#include "transport/names.h"
#include "transport/tcp/frame.h"
#include "transport/tcp/socket.h"
#include "transport/tcp/tcp_link.h"
#include "transport/tcp/tcp_sender.h"

namespace godwit::transport {
namespace {

Result<void> await_welcome(int socket, int64_t deadline_ns) {
  std::array<std::byte, sizeof(FrameHeader)> bytes;
  auto received = receive_all(socket, bytes, deadline_ns);
  if (!received)
    return fail("join", kTargetEnd, received.error().code,
                received.error().code == ETIMEDOUT
                    ? "it did not answer in time"
                    : "it dropped the connection: was the token the right one?");
  GODWIT_ASSIGN(const FrameHeader header, read_frame(bytes, kTargetEnd));
  if (header.type == FrameType::kRefused)
    return fail("join", kTargetEnd, ECONNREFUSED, describe(static_cast<RefusalReason>(header.number)));
  if (header.type != FrameType::kWelcome || header.number != kProtocolVersion)
    return fail("join", kTargetEnd, EPROTO, "its answer to the hello is neither a welcome nor a refusal");
  return {};
}

}  // namespace

Result<std::unique_ptr<LinkSender>> connect_tcp_link(const std::string& address, uint16_t port,
                                                     std::string_view token, const LinkOptions& options,
                                                     int64_t deadline_ns, TcpIo io) {
  GODWIT_TRY(check_options(options));
  GODWIT_ASSIGN(const LinkToken link_token, parse_token(token, kTargetEnd));
  GODWIT_ASSIGN(Arena arena, Arena::create(options));
  std::vector<Fd> sockets;
  for (uint16_t i = 0; i < options.streams; ++i) {
    GODWIT_ASSIGN(Fd socket, connect_tcp(address, port, deadline_ns));
    GODWIT_TRY(send_all(socket.get(), make_hello(link_token, i, options), deadline_ns));
    sockets.push_back(std::move(socket));
  }
  for (const Fd& socket : sockets) GODWIT_TRY(await_welcome(socket.get(), deadline_ns));
  return TcpSender::create(std::move(sockets), std::move(arena), io);
}

}  // namespace godwit::transport
