// Which kind of link two hosts use: the target listens for every kind that it has, and says so; the source
// takes the best that both have, and says why.
//
//   target                                                source
//   listener = LinkListener::listen(place, wish)
//   listener.offers()    -- control connection -->        connect_link(offers, ...)
//   listener.try_accept()
//
// RDMA is taken where both hosts have a device and the source finds a way from its own to the target's;
// else TCP. What this costs a host without RDMA is one look into /sys. A source that cannot connect by RDMA
// after all (a firewall, a limit on locked memory) goes on to TCP within kRdmaPatienceNs; the target, which
// listens for both, need not be told.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/fd.h"
#include "base/result.h"
#include "transport/link.h"
#include "transport/rdma/rdma_link.h"
#include "transport/tcp/tcp_link.h"

namespace godwit::transport {

inline constexpr int64_t kRdmaPatienceNs = 3'000'000'000;

enum class TransportWish : uint8_t { kInvalid = 0, kAuto, kTcp, kRdma };
// "auto" (also the empty string), "tcp", "rdma".
Result<TransportWish> parse_transport(std::string_view name);

// Where a host's links begin or end.
struct LinkPlace {
  std::string address;  // numeric, of this host
  // Of the RDMA device: "auto" or empty: the one that `address` (target) or the way to the other host
  // (source) belongs to; "off": none; else an address of its interface, or its name.
  std::string rdma;
};

// What a target says about one kind of link. Comes from the peer: connect_link() checks it.
struct LinkOffer {
  std::string transport;  // "tcp", "rdma"
  std::string address;    // where it listens; empty: the host that the control connection goes to
  uint32_t port = 0;
  std::string token;
  std::string absent;  // why there is none, if there is none
};

// Why this host has no RDMA, in a few words; nothing if it has.
Result<void> check_rdma(const LinkPlace& place);

// The target's end of a link that does not exist yet. Threads: one.
class LinkListener {
 public:
  // Fails if it cannot listen for what is wished for; under kAuto, TCP is enough.
  static Result<LinkListener> listen(const LinkPlace& place, TransportWish wish);

  [[nodiscard]] const std::vector<LinkOffer>& offers() const { return offers_; }
  // For poll(2): readable when try_accept() has something to do.
  [[nodiscard]] int fd() const { return epoll_.get(); }
  // Why RDMA, though offered, is out of the question by now; nothing otherwise. The source has been told, and
  // may come by TCP.
  [[nodiscard]] const std::optional<Error>& rdma_failure() const { return rdma_failure_; }
  // The link, once a source is connected with all its streams; null before. Does not wait; to be called a few
  // times a second. An error means that no link can come any more.
  Result<std::unique_ptr<LinkReceiver>> try_accept();

 private:
  LinkListener() = default;
  Result<void> listen_tcp(const LinkPlace& place);
  Result<void> listen_rdma(const LinkPlace& place);
  Result<void> watch(int fd);

  std::vector<LinkOffer> offers_;
  std::optional<TcpLinkListener> tcp_;
  std::optional<RdmaLinkListener> rdma_;
  std::optional<Error> rdma_failure_;
  Fd epoll_;
};

struct ChosenLink {
  std::unique_ptr<LinkSender> link;
  std::string why;  // a clause for the user: "both hosts have RDMA: rxe0 here reaches 10.7.0.2"
};

// `peer_address`: where the control connection goes. `local.address` is not used: routes decide.
Result<ChosenLink> connect_link(const std::vector<LinkOffer>& offers, TransportWish wish,
                                const std::string& peer_address, const LinkPlace& local,
                                const LinkOptions& options, int64_t deadline_ns);

}  // namespace godwit::transport
