#include <poll.h>

#include "base/clock.h"
#include "transport/tcp/socket.h"
#include "transport/tcp/tcp_handshake.h"
#include "transport/tcp/tcp_link.h"
#include "transport/tcp/tcp_receiver.h"

namespace godwit::transport {
namespace {

constexpr int kLookMs = 100;  // how often slow connections are looked for
constexpr int64_t kWelcomeWaitNs = 2'000'000'000;

}  // namespace

TcpLinkListener::TcpLinkListener(Fd socket, uint16_t port, std::string token, TcpIo io,
                                 std::unique_ptr<TcpHandshake> handshake)
    : socket_(std::move(socket)),
      port_(port),
      token_(std::move(token)),
      io_(io),
      handshake_(std::move(handshake)) {}
TcpLinkListener::TcpLinkListener(TcpLinkListener&& other) noexcept = default;
TcpLinkListener::~TcpLinkListener() = default;

Result<TcpLinkListener> TcpLinkListener::listen(const std::string& address, uint16_t port, TcpIo io) {
  GODWIT_ASSIGN(Fd socket, listen_tcp(address, port));
  GODWIT_ASSIGN(const uint16_t bound_port, local_port(socket.get()));
  GODWIT_ASSIGN(std::string token, make_token());
  GODWIT_ASSIGN(const LinkToken link_token, parse_token(token, "this host"));
  GODWIT_ASSIGN(TcpHandshake handshake, TcpHandshake::create(socket.get(), link_token));
  return TcpLinkListener(std::move(socket), bound_port, std::move(token), io,
                         std::make_unique<TcpHandshake>(std::move(handshake)));
}

int TcpLinkListener::fd() const {
  return handshake_->fd();
}

Result<std::unique_ptr<LinkReceiver>> TcpLinkListener::try_accept() {
  GODWIT_ASSIGN(const bool complete, handshake_->step());
  if (!complete) return nullptr;
  GODWIT_ASSIGN(std::vector<Fd> sockets, handshake_->take_sockets());
  std::vector<Fd> refusable;
  for (const Fd& socket : sockets) {
    GODWIT_ASSIGN(Fd copy, duplicate(socket.get()));
    refusable.push_back(std::move(copy));
  }
  auto receiver = TcpReceiver::create(std::move(sockets), handshake_->options(), io_);
  if (!receiver) {
    for (const Fd& socket : refusable) send_refusal(socket.get(), RefusalReason::kNoMemory);
    return std::unexpected(receiver.error());
  }
  GODWIT_TRY((*receiver)->welcome(monotonic_ns() + kWelcomeWaitNs));
  return std::unique_ptr<LinkReceiver>(std::move(*receiver));
}

Result<std::unique_ptr<LinkReceiver>> TcpLinkListener::accept(int64_t deadline_ns) {
  for (;;) {
    auto link = try_accept();
    if (!link || *link) return link;
    if (has_passed(deadline_ns))
      return fail("wait for", "the source's end of the link", ETIMEDOUT, "it did not connect in time");
    const auto ready = wait_for(fd(), POLLIN, earlier(deadline_ns, monotonic_ns() + kLookMs * 1'000'000));
    if (!ready && ready.error().code != ETIMEDOUT) return std::unexpected(ready.error());
  }
}

}  // namespace godwit::transport
