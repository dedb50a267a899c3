#include "transport/rdma/connection.h"

#include <fcntl.h>
#include <poll.h>

#include <algorithm>
#include <cstring>

#include "base/socket_address.h"
#include "transport/deadline.h"
#include "transport/rdma/device.h"

namespace godwit::transport {
namespace {

ConnectionEvent copy(const rdma_cm_event& event) {
  ConnectionEvent made{
      .type = event.event, .status = event.status, .id = event.id, .data = {}, .data_size = 0};
  const rdma_conn_param& parameters = event.param.conn;
  if (parameters.private_data == nullptr) return made;
  made.data_size = std::min<size_t>(parameters.private_data_len, made.data.size());
  std::memcpy(made.data.data(), parameters.private_data, made.data_size);
  return made;
}

}  // namespace

Result<EventChannel> EventChannel::create() {
  GODWIT_TRY(probe_rdma());
  rdma_event_channel* const made = ::rdma_create_event_channel();
  if (made == nullptr) return fail("open", "the RDMA connection manager");
  EventChannel channel(made);
  const int flags = ::fcntl(channel.fd(), F_GETFL);
  if (flags < 0 || ::fcntl(channel.fd(), F_SETFL, flags | O_NONBLOCK) != 0)
    return fail("set non-blocking mode on", "the RDMA connection manager");
  return channel;
}

Result<std::optional<ConnectionEvent>> EventChannel::next() const {
  rdma_cm_event* event = nullptr;
  if (::rdma_get_cm_event(channel_.get(), &event) != 0) {
    if (errno == EAGAIN || errno == EINTR) return std::nullopt;
    return fail("get an event of", "the RDMA connection manager");
  }
  const ConnectionEvent made = copy(*event);
  ::rdma_ack_cm_event(event);
  return made;
}

Result<ConnectionEvent> EventChannel::await(int64_t deadline_ns) const {
  for (;;) {
    GODWIT_ASSIGN(const auto event, next());
    if (event) return *event;
    if (has_passed(deadline_ns)) return fail("wait for", "the RDMA connection manager", ETIMEDOUT);
    pollfd entry{.fd = fd(), .events = POLLIN, .revents = 0};
    if (::poll(&entry, 1, left_ms(deadline_ns)) < 0 && errno != EINTR)
      return fail("wait for", "the RDMA connection manager");
  }
}

Result<Connection> Connection::create(const EventChannel& channel) {
  rdma_cm_id* id = nullptr;
  if (::rdma_create_id(channel.get(), &id, nullptr, RDMA_PS_TCP) != 0)
    return fail("make a connection of", "the RDMA connection manager");
  return Connection(id);
}

Connection::~Connection() {
  if (id_ == nullptr) return;
  disconnect();
  if (id_->qp != nullptr) ::rdma_destroy_qp(id_);
  ::rdma_destroy_id(id_);
}

void Connection::disconnect() const {
  // Fails if there is no connection, or not any more, which is as well.
  if (id_->qp != nullptr) static_cast<void>(::rdma_disconnect(id_));
}

std::string Connection::peer() const {
  return host_of(::rdma_get_peer_addr(id_)) + " (by " + device_of(id_) + ")";
}

std::string device_of(const rdma_cm_id* id) {
  return id->verbs == nullptr ? "no device" : ::ibv_get_device_name(id->verbs->device);
}

}  // namespace godwit::transport
