// The RDMA connection manager (rdma_cm(7)) with owners: a channel of events, and connections.
//
// An rdma_cm_id reports to one channel, and must be destroyed before it. Events are copied and acknowledged
// at once, since rdma_destroy_id(3) waits for those that are not.
#pragma once

#include <rdma/rdma_cma.h>

#include <array>
#include <cstddef>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>

#include "base/result.h"

namespace godwit::transport {

struct ConnectionEvent {
  rdma_cm_event_type type = RDMA_CM_EVENT_ADDR_RESOLVED;
  int status = 0;            // a negative errno, or the reason of a rejection
  rdma_cm_id* id = nullptr;  // which it concerns; of a CONNECT_REQUEST: the new one, the caller's to own
  std::array<std::byte, 256> data{};
  size_t data_size = 0;

  [[nodiscard]] std::span<const std::byte> private_data() const { return std::span(data).first(data_size); }
  [[nodiscard]] const char* name() const { return ::rdma_event_str(type); }
};

class EventChannel {
 public:
  // An error says what this host lacks.
  static Result<EventChannel> create();
  [[nodiscard]] rdma_event_channel* get() const { return channel_.get(); }
  // For poll(2).
  [[nodiscard]] int fd() const { return channel_->fd; }
  // Without waiting; nothing if there is none.
  Result<std::optional<ConnectionEvent>> next() const;
  // Waits for one; ETIMEDOUT at the deadline.
  Result<ConnectionEvent> await(int64_t deadline_ns) const;

 private:
  using Owner = std::unique_ptr<rdma_event_channel, decltype(&::rdma_destroy_event_channel)>;
  explicit EventChannel(rdma_event_channel* channel) : channel_(channel, &::rdma_destroy_event_channel) {}
  Owner channel_;
};

// An rdma_cm_id with its queue pair, if it has one.
class Connection {
 public:
  static Result<Connection> create(const EventChannel& channel);
  explicit Connection(rdma_cm_id* id) : id_(id) {}
  Connection(Connection&& other) noexcept : id_(std::exchange(other.id_, nullptr)) {}
  Connection& operator=(Connection&& other) noexcept {
    std::swap(id_, other.id_);
    return *this;
  }
  Connection(const Connection&) = delete;
  Connection& operator=(const Connection&) = delete;
  // Disconnects first.
  ~Connection();

  [[nodiscard]] rdma_cm_id* id() const { return id_; }
  [[nodiscard]] rdma_cm_id* operator->() const { return id_; }
  // Posted work is flushed, and the peer is told, if it can be reached. May be repeated.
  void disconnect() const;
  // The other end, and by which device: "10.0.0.2 (by rxe0)".
  [[nodiscard]] std::string peer() const;

 private:
  rdma_cm_id* id_;
};

// The name of the device an id is bound to; "no device" if it is to none.
std::string device_of(const rdma_cm_id* id);

}  // namespace godwit::transport
