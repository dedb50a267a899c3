#include "transport/rdma/rdma_endpoint.h"

#include <poll.h>

#include <array>

#include "transport/deadline.h"

namespace godwit::transport {
namespace {

// Batches or credits, twice over since a credit may have been used before its own completion is seen; the
// close; a probe.
uint32_t send_depth(const LinkOptions& options) {
  return 2 * options.buffers_per_stream + 4;
}
// Batches or credits, and the close.
uint32_t receive_depth(const LinkOptions& options) {
  return options.buffers_per_stream + 2;
}

uint64_t wr_id(const Work& work) {
  return uint64_t{static_cast<uint8_t>(work.kind)} << 16 | uint64_t{work.stream} << 8 | work.slot;
}

}  // namespace

Work work_of(const ibv_wc& completion) {
  return {.kind = static_cast<WorkKind>(completion.wr_id >> 16),
          .stream = static_cast<uint8_t>(completion.wr_id >> 8),
          .slot = static_cast<uint8_t>(completion.wr_id)};
}

Result<std::unique_ptr<RdmaEndpoint>> RdmaEndpoint::create(const rdma_cm_id* id, const LinkOptions& options,
                                                           Side side) {
  std::unique_ptr<RdmaEndpoint> made(new RdmaEndpoint(options, side));
  made->device_ = device_of(id);
  made->domain_.reset(::ibv_alloc_pd(id->verbs));
  if (!made->domain_) return fail("make a protection domain on", made->device_);
  GODWIT_ASSIGN(RegisteredRing ring,
                RegisteredRing::create(made->domain_.get(), options, side == Side::kTarget));
  made->ring_.emplace(std::move(ring));
  const uint32_t entries = options.streams * (send_depth(options) + receive_depth(options));
  GODWIT_ASSIGN(made->queue_, CompletionQueue::create(id->verbs, entries));
  return made;
}

Result<void> RdmaEndpoint::add_stream(uint32_t stream, Connection connection) {
  ibv_qp_init_attr attributes{};
  attributes.qp_type = IBV_QPT_RC;
  attributes.send_cq = queue_->get();
  attributes.recv_cq = queue_->get();
  attributes.cap.max_send_wr = send_depth(options_);
  attributes.cap.max_recv_wr = receive_depth(options_);
  attributes.cap.max_send_sge = 1;
  attributes.cap.max_recv_sge = 1;
  if (::rdma_create_qp(connection.id(), domain_.get(), &attributes) != 0)
    return fail("make a queue pair on", device_, errno, hint_of_registration(errno, 1 << 20));
  uint8_t timeout = kAckTimeout;
  if (::rdma_set_option(connection.id(), RDMA_OPTION_ID, RDMA_OPTION_ID_ACK_TIMEOUT, &timeout,
                        sizeof timeout) != 0)
    return fail("set the acknowledgement timeout on", device_);
  if (peer_.empty())
    peer_ = std::string(side_ == Side::kSource ? "the target" : "the source") + "'s end of the link at " +
            connection.peer();
  streams_[stream] = std::move(connection);
  for (uint32_t i = 0; i < receive_depth(options_); ++i) GODWIT_TRY(post_receive(stream));
  return {};
}

Result<void> RdmaEndpoint::take_channel(EventChannel channel) {
  for (const auto& connection : streams_)
    if (connection && (*connection)->channel != channel.get() &&
        ::rdma_migrate_id(connection->id(), channel.get()) != 0)
      return fail("take over the events of", peer_);
  channel_ = std::move(channel);
  return {};
}

uint32_t RdmaEndpoint::sends_max() const {
  return send_depth(options_);
}

Result<void> RdmaEndpoint::post_receive(uint32_t stream) const {
  ibv_recv_wr request{};
  request.wr_id = wr_id({.kind = WorkKind::kReceive, .stream = static_cast<uint8_t>(stream)});
  ibv_recv_wr* bad = nullptr;
  const int code = ::ibv_post_recv(pair(stream), &request, &bad);
  if (code != 0) return fail("post a receive for", peer_, code);
  return {};
}

Result<void> RdmaEndpoint::post(uint32_t stream, ibv_send_wr& request, WorkKind kind, uint32_t slot) const {
  request.wr_id =
      wr_id({.kind = kind, .stream = static_cast<uint8_t>(stream), .slot = static_cast<uint8_t>(slot)});
  request.send_flags = IBV_SEND_SIGNALED;
  ibv_send_wr* bad = nullptr;
  const int code = ::ibv_post_send(pair(stream), &request, &bad);
  if (code != 0) return fail("post a send to", peer_, code);
  return {};
}

Result<void> RdmaEndpoint::post_batch(uint32_t stream, uint32_t slot, uint32_t size,
                                      const RdmaWelcome& ring) const {
  ibv_sge from{.addr = reinterpret_cast<uint64_t>(ring_->slot(stream, slot).data()),
               .length = size,
               .lkey = ring_->lkey()};
  ibv_send_wr request{};
  request.opcode = IBV_WR_RDMA_WRITE_WITH_IMM;
  request.sg_list = &from;
  request.num_sge = 1;
  request.imm_data = pack({.kind = MessageKind::kBatch,
                           .stream = static_cast<uint8_t>(stream),
                           .slot = static_cast<uint8_t>(slot)});
  request.wr.rdma.remote_addr = ring.address + uint64_t{slot} * ring.slot_stride;
  request.wr.rdma.rkey = ring.rkey;
  return post(stream, request, WorkKind::kBatch, slot);
}

Result<void> RdmaEndpoint::post_message(uint32_t stream, const Immediate& immediate) const {
  ibv_send_wr request{};
  request.opcode = IBV_WR_SEND_WITH_IMM;
  request.imm_data = pack(immediate);
  return post(stream, request, WorkKind::kMessage, 0);
}

// Zero bytes need neither an address nor a key, nor a receive at the peer.
Result<void> RdmaEndpoint::post_probe(uint32_t stream) const {
  ibv_send_wr request{};
  request.opcode = IBV_WR_RDMA_WRITE;
  return post(stream, request, WorkKind::kProbe, 0);
}

Result<void> RdmaEndpoint::sleep(int64_t until_ns, int wake_fd) const {
  std::array<pollfd, 3> entries{{{.fd = queue_->fd(), .events = POLLIN, .revents = 0},
                                 {.fd = channel_->fd(), .events = POLLIN, .revents = 0},
                                 {.fd = wake_fd, .events = POLLIN, .revents = 0}}};
  if (::poll(entries.data(), entries.size(), left_ms(until_ns)) < 0 && errno != EINTR)
    return fail("wait for", peer_);
  queue_->clear_notifications();
  return {};
}

Result<std::optional<Error>> RdmaEndpoint::look_at_connections() const {
  for (;;) {
    GODWIT_ASSIGN(const auto event, channel_->next());
    if (!event) return std::nullopt;
    switch (event->type) {
      case RDMA_CM_EVENT_DISCONNECTED:
        return fail("reach", peer_, ECONNRESET, "the connection is cut").error();
      case RDMA_CM_EVENT_DEVICE_REMOVAL:
        return fail("reach", peer_, ENODEV, "the device " + device_ + " has been removed").error();
      case RDMA_CM_EVENT_CONNECT_ERROR:
      case RDMA_CM_EVENT_UNREACHABLE:
      case RDMA_CM_EVENT_REJECTED:
        return fail("reach", peer_, ECONNRESET, event->name()).error();
      default:  // nothing that ends a connection
        break;
    }
  }
}

Error RdmaEndpoint::failure_of(const ibv_wc& completion) const {
  const auto because = [&](int code, std::string why) {
    return fail("reach", peer_, code, std::move(why)).error();
  };
  switch (completion.status) {
    case IBV_WC_WR_FLUSH_ERR:
      return because(ECONNRESET, "the connection is cut");
    case IBV_WC_RETRY_EXC_ERR:
      return because(EHOSTUNREACH,
                     "it does not answer any more: its process, its host or the network between is gone");
    case IBV_WC_REM_ACCESS_ERR:
      return because(EACCES, "its adapter does not let us write into the ring that it offered");
    case IBV_WC_RNR_RETRY_EXC_ERR:
      return because(EPROTO, "it has no receive posted for a message that it must expect");
    case IBV_WC_REM_INV_REQ_ERR:
      return because(EPROTO, "it says that a message of ours is none of its protocol's");
    default:
      // Our receives have no room for anything: one that fails here has got a message with a payload.
      if (work_of(completion).kind == WorkKind::kReceive)
        return because(EPROTO, "a message of a form that is none of this protocol's");
      return because(
          EIO, std::string("the adapter ") + device_ + " reports: " + ::ibv_wc_status_str(completion.status));
  }
}

void RdmaEndpoint::disconnect() const {
  for (const auto& connection : streams_)
    if (connection) connection->disconnect();
}

}  // namespace godwit::transport
