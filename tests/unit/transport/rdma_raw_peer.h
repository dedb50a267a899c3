// Peers that speak to one end of an RDMA link by plain verbs, and not always what they should.
#pragma once

#include <arpa/inet.h>
#include <gtest/gtest.h>

#include <cstring>
#include <memory>
#include <thread>
#include <vector>

#include "base/socket_address.h"
#include "tests/unit/transport/links.h"
#include "transport/rdma/connection.h"
#include "transport/rdma/rdma_endpoint.h"
#include "transport/rdma/wire.h"

namespace godwit::transport::test {

template <typename T>
std::span<const std::byte> bytes_of(const T& message) {
  return std::as_bytes(std::span(&message, 1));
}

inline LinkToken token_of(const std::string& token) {
  LinkToken made{};
  std::memcpy(made.data(), token.data(), made.size());
  return made;
}

// The next event of this kind; others before it are skipped.
inline Result<ConnectionEvent> await_event(const EventChannel& channel, rdma_cm_event_type wanted) {
  for (;;) {
    GODWIT_ASSIGN(const ConnectionEvent event, channel.await(in_seconds(10)));
    if (event.type == wanted) return event;
    if (event.type == RDMA_CM_EVENT_REJECTED)
      return fail("wait for", ::rdma_event_str(wanted), ECONNREFUSED, "rejected");
    if (event.type == RDMA_CM_EVENT_UNREACHABLE || event.type == RDMA_CM_EVENT_ADDR_ERROR ||
        event.type == RDMA_CM_EVENT_ROUTE_ERROR)
      return fail("wait for", ::rdma_event_str(wanted), EIO, event.name());
  }
}

// Any message, right or wrong.
struct RawMessage {
  ibv_wr_opcode opcode = IBV_WR_RDMA_WRITE_WITH_IMM;
  uint32_t immediate = 0;  // in network order
  uint32_t size = 0;
  uint64_t address = 0;
  uint32_t rkey = 0;
};

inline void say(const RdmaEndpoint& endpoint, const RawMessage& message) {
  ibv_sge from{.addr = reinterpret_cast<uint64_t>(endpoint.ring().slot(0, 0).data()),
               .length = message.size,
               .lkey = endpoint.ring().lkey()};
  ibv_send_wr request{};
  request.opcode = message.opcode;
  request.send_flags = IBV_SEND_SIGNALED;
  request.sg_list = &from;
  request.num_sge = message.size == 0 ? 0 : 1;
  request.imm_data = message.immediate;
  request.wr.rdma.remote_addr = message.address;
  request.wr.rdma.rkey = message.rkey;
  ibv_send_wr* bad = nullptr;
  EXPECT_EQ(::ibv_post_send(endpoint.id(0)->qp, &request, &bad), 0);
}

// A source with one stream, connected as far as the target lets it.
class RawSource {
 public:
  explicit RawSource(uint16_t port) : port_(port) {
    const auto places = find_rdma_places();
    auto made = EventChannel::create();
    EXPECT_TRUE(places && made);
    places_ = *places;
    channel_.emplace(std::move(*made));
  }

  // Asks for a connection, with these options at this end, whatever the private data says. The answer.
  Result<ConnectionEvent> dial(std::span<const std::byte> private_data, const LinkOptions& options) {
    GODWIT_ASSIGN(Connection connection, Connection::create(*channel_));
    GODWIT_ASSIGN(SocketAddress target, parse_address(places_.target, port_));
    GODWIT_ASSIGN(SocketAddress source, parse_address(places_.source, 0));
    if (::rdma_resolve_addr(connection.id(), source.get(), target.get(), 2000) != 0)
      return fail("resolve", places_.target);
    GODWIT_TRY(await_event(*channel_, RDMA_CM_EVENT_ADDR_RESOLVED));
    if (::rdma_resolve_route(connection.id(), 2000) != 0) return fail("find a route to", places_.target);
    GODWIT_TRY(await_event(*channel_, RDMA_CM_EVENT_ROUTE_RESOLVED));
    GODWIT_ASSIGN(endpoint_, RdmaEndpoint::create(connection.id(), options, RdmaEndpoint::Side::kSource));
    GODWIT_TRY(endpoint_->add_stream(0, std::move(connection)));
    rdma_conn_param parameters{};
    parameters.private_data = private_data.data();
    parameters.private_data_len = static_cast<uint8_t>(private_data.size());
    parameters.retry_count = kRetries;
    if (::rdma_connect(endpoint_->id(0), &parameters) != 0) return fail("connect to", places_.target);
    for (;;) {
      GODWIT_ASSIGN(const ConnectionEvent event, channel_->await(in_seconds(10)));
      if (event.type == RDMA_CM_EVENT_ESTABLISHED || event.type == RDMA_CM_EVENT_REJECTED) return event;
    }
  }

  [[nodiscard]] const RdmaEndpoint& endpoint() const { return *endpoint_; }

 private:
  uint16_t port_;
  RdmaPlaces places_;
  std::optional<EventChannel> channel_;
  std::unique_ptr<RdmaEndpoint> endpoint_;
};

// A target that answers one request as it is told to.
class RawTarget {
 public:
  RawTarget() {
    const auto places = find_rdma_places();
    auto made = EventChannel::create();
    EXPECT_TRUE(places && made);
    channel_.emplace(std::move(*made));
    auto listener = Connection::create(*channel_);
    auto address = parse_address(places->target, 0);
    EXPECT_TRUE(listener && address);
    EXPECT_EQ(::rdma_bind_addr(listener->id(), address->get()), 0);
    EXPECT_EQ(::rdma_listen(listener->id(), 8), 0);
    listener_.emplace(std::move(*listener));
  }

  [[nodiscard]] uint16_t port() const { return ntohs(::rdma_get_src_port(listener_->id())); }

  // The ring that an honest target would offer.
  [[nodiscard]] RdmaWelcome good_welcome() const {
    return {.rkey = endpoint_->ring().rkey(),
            .slot_stride = endpoint_->ring().slot_stride(),
            .address = endpoint_->ring().address(0)};
  }

  Result<void> take_request(const LinkOptions& options) {
    GODWIT_ASSIGN(const ConnectionEvent request, await_event(*channel_, RDMA_CM_EVENT_CONNECT_REQUEST));
    Connection connection(request.id);
    GODWIT_ASSIGN(endpoint_, RdmaEndpoint::create(request.id, options, RdmaEndpoint::Side::kTarget));
    return endpoint_->add_stream(0, std::move(connection));
  }
  void reject(std::span<const std::byte> private_data) const {
    EXPECT_EQ(::rdma_reject(endpoint_->id(0), private_data.data(), static_cast<uint8_t>(private_data.size())),
              0);
  }
  void accept(std::span<const std::byte> private_data) const {
    rdma_conn_param parameters{};
    parameters.private_data = private_data.data();
    parameters.private_data_len = static_cast<uint8_t>(private_data.size());
    EXPECT_EQ(::rdma_accept(endpoint_->id(0), &parameters), 0);
  }

  [[nodiscard]] const RdmaEndpoint& endpoint() const { return *endpoint_; }
  [[nodiscard]] const EventChannel& channel() const { return *channel_; }

 private:
  std::optional<EventChannel> channel_;
  std::optional<Connection> listener_;
  std::unique_ptr<RdmaEndpoint> endpoint_;
};

}  // namespace godwit::transport::test
