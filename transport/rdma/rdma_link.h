// A Link over RDMA: one reliable connection (queue pair) per stream, made by the RDMA connection manager
// (rdma_cm(7)); the source writes batches straight into the target's registered ring. The protocol is in
// transport/rdma/wire.h, the attributes and why they are so in rdma_endpoint.h, the reasons and the hardware
// in docs/transport.md.
//
//   target                                               source
//   listener = RdmaLinkListener::listen("10.0.0.2", {})
//   (port and token go over the control connection)   -> link = connect_rdma_link("10.0.0.2", port, token,
//   ...) receiver = listener.accept(deadline)
//
// The device at each end is the one that the address belongs to: the target's own, and at the source the one
// that its routes choose, or that is named. All memory is registered and all connections are made when
// connect_rdma_link() and accept() return. Connections belong to the network namespace of the thread that
// calls; soft-RoCE of Linux up to 6.12 works in the initial one only.
//
// The end of a link is as in transport/tcp/tcp_link.h: in order by the sender's destructor, within
// kRdmaCloseWaitMs; else cut at both ends: by a connection that ends, a peer that does not answer
// (EHOSTUNREACH, rdma_endpoint.h), a malformed message (EPROTO), a deadline (ETIMEDOUT).
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "base/result.h"
#include "transport/link.h"
#include "transport/rdma/connection.h"
#include "transport/rdma/rdma_endpoint.h"

namespace godwit::transport {

inline constexpr int kRdmaCloseWaitMs = 1000;

// The target's end of a link that does not exist yet. Threads: one.
class RdmaLinkListener {
 public:
  // `address` is a numeric address of this host; port 0 lets the kernel choose. ENODEV, with a hint, where
  // there is no RDMA device for it.
  static Result<RdmaLinkListener> listen(const std::string& address, uint16_t port = 0);

  [[nodiscard]] uint16_t port() const;
  // 16 random bytes, which the source needs; keep them from others.
  [[nodiscard]] const std::string& token() const { return token_; }
  // For poll(2): readable when try_accept() has something to do.
  [[nodiscard]] int fd() const { return channel_.fd(); }
  // The link, once all streams of one source are connected; null before. Does not wait. Requests that do not
  // say the token or ask for the impossible are rejected and do not matter. An error is this host's: no
  // memory that may be locked, above all.
  Result<std::unique_ptr<LinkReceiver>> try_accept();
  Result<std::unique_ptr<LinkReceiver>> accept(int64_t deadline_ns);

 private:
  RdmaLinkListener(EventChannel channel, Connection connection, std::string token,
                   const LinkToken& link_token)
      : channel_(std::move(channel)),
        connection_(std::move(connection)),
        token_(std::move(token)),
        link_token_(link_token) {}
  Result<void> handle(const ConnectionEvent& event);
  Result<void> answer(const ConnectionEvent& request);
  std::optional<RefusalReason> find_objection(const RdmaHello& hello, const rdma_cm_id* id) const;
  Result<void> accept_stream(Connection connection, const RdmaHello& hello);

  EventChannel channel_;
  Connection connection_;
  std::string token_;
  LinkToken link_token_;
  std::unique_ptr<RdmaEndpoint> endpoint_;  // of the source that has said hello first
  uint32_t established_ = 0;                // streams
};

// Returns when the target has accepted every stream. `local` names the device to use by an address of its
// interface or by its own name; empty: the one that the routes choose. EINVAL for options or a token that
// cannot be; ECONNREFUSED if the target refused, with its reason. No deadline is set on the link itself.
Result<std::unique_ptr<LinkSender>> connect_rdma_link(const std::string& address, uint16_t port,
                                                      std::string_view token, const LinkOptions& options,
                                                      int64_t deadline_ns, const std::string& local = {});

// An address of this host from an address or the name of an RDMA device; ENODEV if it has no such device.
Result<std::string> find_rdma_address(const std::string& name);

}  // namespace godwit::transport
