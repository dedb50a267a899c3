#include <infiniband/verbs.h>

#include "base/socket_address.h"
#include "transport/deadline.h"
#include "transport/link_options.h"
#include "transport/names.h"
#include "transport/rdma/device.h"
#include "transport/rdma/rdma_link.h"
#include "transport/rdma/rdma_sender.h"

namespace godwit::transport {
namespace {

constexpr int kResolveMs = 2000;
// IBTA, table "Rejection Reason": the private data is the target's own.
constexpr int kRejectedByConsumer = 28;
constexpr int kRejectedNoListener = 8;

class Connector {
 public:
  Connector(SocketAddress target, std::optional<SocketAddress> local, EventChannel channel,
            const LinkToken& token, const LinkOptions& options, int64_t deadline_ns)
      : target_(target),
        local_(local),
        name_(host_of(target_.get())),
        channel_(std::move(channel)),
        token_(token),
        options_(options),
        deadline_ns_(deadline_ns) {}

  Result<std::unique_ptr<LinkSender>> connect();

 private:
  Result<Connection> resolve();
  Result<RdmaWelcome> join(uint32_t stream);
  Result<ConnectionEvent> await(const rdma_cm_id* id, rdma_cm_event_type wanted, const char* operation);
  [[nodiscard]] Error explain(const ConnectionEvent& event, const char* operation) const;
  [[nodiscard]] int resolve_ms() const;

  SocketAddress target_;
  std::optional<SocketAddress> local_;
  std::string name_;
  EventChannel channel_;  // outlives the connections
  LinkToken token_;
  LinkOptions options_;
  int64_t deadline_ns_;
  std::unique_ptr<RdmaEndpoint> endpoint_;
};

Result<std::unique_ptr<LinkSender>> Connector::connect() {
  std::vector<RdmaWelcome> rings;
  for (uint32_t i = 0; i < options_.streams; ++i) {
    GODWIT_ASSIGN(Connection connection, resolve());
    if (!endpoint_) {
      GODWIT_ASSIGN(endpoint_, RdmaEndpoint::create(connection.id(), options_, RdmaEndpoint::Side::kSource));
    }
    if (!endpoint_->is_on(connection.id()))
      return refuse("connect by RDMA to", name_, "its streams take different devices of this host");
    GODWIT_TRY(endpoint_->add_stream(i, std::move(connection)));
    GODWIT_ASSIGN(const RdmaWelcome ring, join(i));
    rings.push_back(ring);
  }
  GODWIT_TRY(endpoint_->take_channel(std::move(channel_)));
  return std::make_unique<RdmaSender>(std::move(endpoint_), rings);
}

int Connector::resolve_ms() const {
  const int left = left_ms(deadline_ns_);
  return left < 0 ? kResolveMs : std::min(left, kResolveMs);
}

Result<Connection> Connector::resolve() {
  GODWIT_ASSIGN(Connection connection, Connection::create(channel_));
  const char* operation = "find an RDMA device of this host for";
  if (::rdma_resolve_addr(connection.id(), local_ ? local_->get() : nullptr, target_.get(), resolve_ms()) !=
      0)
    return fail(operation, name_, errno,
                errno == ENODEV ? "the interface that leads there is no RDMA device's" : "");
  GODWIT_TRY(await(connection.id(), RDMA_CM_EVENT_ADDR_RESOLVED, operation));
  if (connection->verbs->device->transport_type != IBV_TRANSPORT_IB)
    return refuse(operation, name_,
                  device_of(connection.id()) + " is iWARP, which has no WRITE WITH IMMEDIATE");
  operation = "find an RDMA route to";
  if (::rdma_resolve_route(connection.id(), resolve_ms()) != 0) return fail(operation, name_);
  GODWIT_TRY(await(connection.id(), RDMA_CM_EVENT_ROUTE_RESOLVED, operation));
  return connection;
}

Result<RdmaWelcome> Connector::join(uint32_t stream) {
  const char* const operation = "connect by RDMA to";
  const RdmaHello hello{.stream = static_cast<uint16_t>(stream),
                        .token = token_,
                        .streams = options_.streams,
                        .buffer_bytes = options_.buffer_bytes,
                        .buffers_per_stream = options_.buffers_per_stream};
  rdma_conn_param parameters{};
  parameters.private_data = &hello;
  parameters.private_data_len = sizeof hello;
  parameters.retry_count = kRetries;
  parameters.rnr_retry_count = kReceiverNotReadyRetries;
  if (::rdma_connect(endpoint_->id(stream), &parameters) != 0) return fail(operation, name_);
  GODWIT_ASSIGN(const ConnectionEvent established,
                await(endpoint_->id(stream), RDMA_CM_EVENT_ESTABLISHED, operation));
  return read_welcome(established.private_data(), options_, kTargetEnd);
}

Result<ConnectionEvent> Connector::await(const rdma_cm_id* id, rdma_cm_event_type wanted,
                                         const char* operation) {
  for (;;) {
    auto event = channel_.await(deadline_ns_);
    if (!event && event.error().code == ETIMEDOUT)
      return fail(operation, name_, ETIMEDOUT,
                  "no answer in time: is UDP port 4791 open, and RDMA up at the other end?");
    if (!event) return std::unexpected(event.error());
    if (event->id == id && event->type == wanted) return event;
    if (event->type == RDMA_CM_EVENT_ADDR_CHANGE || event->type == RDMA_CM_EVENT_TIMEWAIT_EXIT) continue;
    return std::unexpected(explain(*event, operation));
  }
}

Error Connector::explain(const ConnectionEvent& event, const char* operation) const {
  if (event.type == RDMA_CM_EVENT_REJECTED) {
    if (event.status == kRejectedNoListener)
      return fail(operation, name_, ECONNREFUSED, "nobody listens there").error();
    if (event.status == kRejectedByConsumer && event.data_size >= sizeof(RdmaRefusal) &&
        read_refusal(event.private_data()) != RefusalReason::kInvalid)
      return fail("join", kTargetEnd, ECONNREFUSED, describe(read_refusal(event.private_data()))).error();
    return fail("join", kTargetEnd, ECONNRESET, "it dropped the connection: was the token the right one?")
        .error();
  }
  if (event.type == RDMA_CM_EVENT_DISCONNECTED)
    return fail("join", kTargetEnd, ECONNRESET, "it dropped the connection").error();
  const int code = event.status < 0 ? -event.status : EHOSTUNREACH;
  return fail(operation, name_, code,
              code == ENODEV ? "the interface that leads there is no RDMA device's" : event.name())
      .error();
}

}  // namespace

Result<std::string> find_rdma_address(const std::string& name) {
  if (parse_address(name, 0)) return name;
  return address_of_device(name);
}

Result<std::unique_ptr<LinkSender>> connect_rdma_link(const std::string& address, uint16_t port,
                                                      std::string_view token, const LinkOptions& options,
                                                      int64_t deadline_ns, const std::string& local) {
  GODWIT_TRY(check_options(options));
  GODWIT_ASSIGN(const LinkToken link_token, parse_token(token, kTargetEnd));
  GODWIT_ASSIGN(const SocketAddress target, parse_address(address, port));
  std::optional<SocketAddress> from;
  if (!local.empty()) {
    GODWIT_ASSIGN(const std::string local_address, find_rdma_address(local));
    GODWIT_ASSIGN(from, parse_address(local_address, 0));
  }
  GODWIT_ASSIGN(EventChannel channel, EventChannel::create());
  return Connector(target, from, std::move(channel), link_token, options, deadline_ns).connect();
}

}  // namespace godwit::transport
