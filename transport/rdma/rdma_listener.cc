#include <poll.h>

#include <netinet/in.h>

#include "base/socket_address.h"
#include "transport/deadline.h"
#include "transport/rdma/rdma_link.h"
#include "transport/rdma/rdma_receiver.h"

namespace godwit::transport {
namespace {

constexpr int kRequestsMax = 64;

void reject(const Connection& connection, std::optional<RefusalReason> reason) {
  const RdmaRefusal refusal{.reason = reason.value_or(RefusalReason::kInvalid)};
  // A peer that is gone already needs no answer.
  static_cast<void>(::rdma_reject(connection.id(), reason ? &refusal : nullptr, reason ? sizeof refusal : 0));
}

LinkOptions options_of(const RdmaHello& hello) {
  return {.streams = hello.streams,
          .buffer_bytes = hello.buffer_bytes,
          .buffers_per_stream = hello.buffers_per_stream};
}

bool are_equal(const LinkOptions& left, const LinkOptions& right) {
  return left.streams == right.streams && left.buffer_bytes == right.buffer_bytes &&
         left.buffers_per_stream == right.buffers_per_stream;
}

}  // namespace

Result<RdmaLinkListener> RdmaLinkListener::listen(const std::string& address, uint16_t port) {
  GODWIT_ASSIGN(SocketAddress place, parse_address(address, port));
  GODWIT_ASSIGN(EventChannel channel, EventChannel::create());
  GODWIT_ASSIGN(Connection connection, Connection::create(channel));
  if (::rdma_bind_addr(connection.id(), place.get()) != 0)
    return fail(
        "listen by RDMA on", address, errno,
        errno == ENODEV || errno == EADDRNOTAVAIL ? "no RDMA device of this host has this address" : "");
  if (::rdma_listen(connection.id(), kRequestsMax) != 0) return fail("listen by RDMA on", address);
  GODWIT_ASSIGN(std::string token, make_token());
  GODWIT_ASSIGN(const LinkToken link_token, parse_token(token, "this host"));
  return RdmaLinkListener(std::move(channel), std::move(connection), std::move(token), link_token);
}

uint16_t RdmaLinkListener::port() const {
  return ntohs(::rdma_get_src_port(connection_.id()));
}

Result<std::unique_ptr<LinkReceiver>> RdmaLinkListener::try_accept() {
  while (!endpoint_ || established_ < endpoint_->options().streams) {
    GODWIT_ASSIGN(const auto event, channel_.next());
    if (!event) return nullptr;
    GODWIT_TRY(handle(*event));
  }
  GODWIT_ASSIGN(EventChannel own, EventChannel::create());
  GODWIT_TRY(endpoint_->take_channel(std::move(own)));
  established_ = 0;
  return RdmaReceiver::create(std::move(endpoint_));
}

Result<std::unique_ptr<LinkReceiver>> RdmaLinkListener::accept(int64_t deadline_ns) {
  for (;;) {
    auto link = try_accept();
    if (!link || *link) return link;
    if (has_passed(deadline_ns))
      return fail("wait for", "the source's end of the link", ETIMEDOUT, "it did not connect in time");
    pollfd entry{.fd = fd(), .events = POLLIN, .revents = 0};
    if (::poll(&entry, 1, left_ms(deadline_ns)) < 0 && errno != EINTR)
      return fail("wait for", "the source's end of the link");
  }
}

Result<void> RdmaLinkListener::handle(const ConnectionEvent& event) {
  switch (event.type) {
    case RDMA_CM_EVENT_CONNECT_REQUEST:
      return answer(event);
    case RDMA_CM_EVENT_ESTABLISHED:
      ++established_;
      return {};
    case RDMA_CM_EVENT_DEVICE_REMOVAL:
      return fail("listen by RDMA on", device_of(event.id), ENODEV, "the device has been removed");
    case RDMA_CM_EVENT_DISCONNECTED:
    case RDMA_CM_EVENT_CONNECT_ERROR:
    case RDMA_CM_EVENT_UNREACHABLE:
    case RDMA_CM_EVENT_REJECTED:
      // The source has given up before all streams were there. Another one may come.
      endpoint_.reset();
      established_ = 0;
      return {};
    default:
      return {};
  }
}

Result<void> RdmaLinkListener::answer(const ConnectionEvent& request) {
  Connection connection(request.id);
  const auto hello = read_rdma_hello(request.private_data(), link_token_);
  const auto objection = hello ? find_objection(*hello, request.id) : std::nullopt;
  if (!hello || objection) {
    reject(connection, objection);
    return {};
  }
  if (!endpoint_) {
    auto made = RdmaEndpoint::create(request.id, options_of(*hello), RdmaEndpoint::Side::kTarget);
    if (!made) {
      reject(connection,
             made.error().code == ENOMEM ? RefusalReason::kLockedMemory : RefusalReason::kNoMemory);
      return std::unexpected(made.error());
    }
    endpoint_ = std::move(*made);
  }
  return accept_stream(std::move(connection), *hello);
}

std::optional<RefusalReason> RdmaLinkListener::find_objection(const RdmaHello& hello,
                                                              const rdma_cm_id* id) const {
  if (const auto fault = find_fault(hello)) return fault;
  if (!endpoint_) return std::nullopt;
  if (!are_equal(options_of(hello), endpoint_->options()) || !endpoint_->is_on(id))
    return RefusalReason::kOptions;
  if (endpoint_->has_stream(hello.stream)) return RefusalReason::kStreamTaken;
  return std::nullopt;
}

Result<void> RdmaLinkListener::accept_stream(Connection connection, const RdmaHello& hello) {
  GODWIT_TRY(endpoint_->add_stream(hello.stream, std::move(connection)));
  const RdmaWelcome welcome{.rkey = endpoint_->ring().rkey(),
                            .slot_stride = endpoint_->ring().slot_stride(),
                            .address = endpoint_->ring().address(hello.stream)};
  rdma_conn_param parameters{};
  parameters.private_data = &welcome;
  parameters.private_data_len = sizeof welcome;
  parameters.rnr_retry_count = kReceiverNotReadyRetries;
  if (::rdma_accept(endpoint_->id(hello.stream), &parameters) != 0)
    return fail("accept a connection of", endpoint_->peer());
  return {};
}

}  // namespace godwit::transport
