#include "transport/link_choice.h"

#include <sys/epoll.h>

#include <algorithm>

#include "transport/deadline.h"
#include "transport/rdma/device.h"

namespace godwit::transport {
namespace {

constexpr const char* kTcp = "tcp";
constexpr const char* kRdma = "rdma";
constexpr const char* kOff = "off";

bool is_named(const std::string& rdma) {
  return !rdma.empty() && rdma != "auto";
}

Result<const LinkOffer*> find_offer(const std::vector<LinkOffer>& offers, const char* transport) {
  const auto found = std::ranges::find(offers, transport, &LinkOffer::transport);
  const std::string tried = std::string("connect by ") + transport + " to";
  if (found == offers.end()) return refuse(tried, "the target", "it does not offer that");
  if (!found->absent.empty()) return refuse(tried, "the target", "it has none: " + found->absent);
  if (found->port == 0 || found->port > UINT16_MAX)
    return fail(tried, "the target", EPROTO, "it named no valid port");
  return &*found;
}

struct Attempt {
  const std::vector<LinkOffer>& offers;
  const std::string& peer_address;
  const LinkPlace& local;
  const LinkOptions& options;
};

Result<ChosenLink> connect_tcp(const Attempt& attempt, int64_t deadline_ns, std::string why) {
  GODWIT_ASSIGN(const LinkOffer* const offer, find_offer(attempt.offers, kTcp));
  const std::string& address = offer->address.empty() ? attempt.peer_address : offer->address;
  GODWIT_ASSIGN(auto link, connect_tcp_link(address, static_cast<uint16_t>(offer->port), offer->token,
                                            attempt.options, deadline_ns));
  return ChosenLink{.link = std::move(link), .why = std::move(why)};
}

Result<ChosenLink> connect_rdma(const Attempt& attempt, int64_t deadline_ns) {
  GODWIT_TRY(check_rdma(attempt.local));
  GODWIT_ASSIGN(const LinkOffer* const offer, find_offer(attempt.offers, kRdma));
  const std::string& address = offer->address.empty() ? attempt.peer_address : offer->address;
  GODWIT_ASSIGN(auto link,
                connect_rdma_link(address, static_cast<uint16_t>(offer->port), offer->token, attempt.options,
                                  deadline_ns, is_named(attempt.local.rdma) ? attempt.local.rdma : ""));
  std::string why =
      "both hosts have RDMA: " + std::string(link->name()).substr(5) + " here reaches " + address;
  return ChosenLink{.link = std::move(link), .why = std::move(why)};
}

}  // namespace

Result<TransportWish> parse_transport(std::string_view name) {
  if (name.empty() || name == "auto") return TransportWish::kAuto;
  if (name == kTcp) return TransportWish::kTcp;
  if (name == kRdma) return TransportWish::kRdma;
  return refuse("use the transport", std::string(name), "it must be auto, tcp or rdma");
}

Result<void> check_rdma(const LinkPlace& place) {
  if (place.rdma == kOff) return refuse("use RDMA on", "this host", "its agent runs with --rdma off");
  return probe_rdma();
}

Result<LinkListener> LinkListener::listen(const LinkPlace& place, TransportWish wish) {
  LinkListener listener;
  listener.epoll_ = Fd(::epoll_create1(EPOLL_CLOEXEC));
  if (!listener.epoll_.valid()) return fail("make an epoll instance for", "the link's listeners");
  if (wish != TransportWish::kRdma) GODWIT_TRY(listener.listen_tcp(place));
  if (wish == TransportWish::kTcp) return listener;
  auto rdma = listener.listen_rdma(place);
  if (rdma) return listener;
  if (wish == TransportWish::kRdma) return std::unexpected(rdma.error());
  LinkOffer& none = listener.offers_.emplace_back();
  none.transport = kRdma;
  none.absent = rdma.error().hint.empty() ? rdma.error().to_string() : rdma.error().hint;
  return listener;
}

Result<void> LinkListener::listen_tcp(const LinkPlace& place) {
  GODWIT_ASSIGN(TcpLinkListener tcp, TcpLinkListener::listen(place.address));
  tcp_.emplace(std::move(tcp));
  GODWIT_TRY(watch(tcp_->fd()));
  offers_.push_back(
      {.transport = kTcp, .address = {}, .port = tcp_->port(), .token = tcp_->token(), .absent = {}});
  return {};
}

Result<void> LinkListener::listen_rdma(const LinkPlace& place) {
  GODWIT_TRY(check_rdma(place));
  std::string address = place.address;
  if (is_named(place.rdma)) {
    GODWIT_ASSIGN(address, find_rdma_address(place.rdma));
  }
  GODWIT_ASSIGN(RdmaLinkListener rdma, RdmaLinkListener::listen(address));
  rdma_.emplace(std::move(rdma));
  GODWIT_TRY(watch(rdma_->fd()));
  offers_.push_back({.transport = kRdma,
                     .address = is_named(place.rdma) ? address : "",
                     .port = rdma_->port(),
                     .token = rdma_->token(),
                     .absent = {}});
  return {};
}

Result<void> LinkListener::watch(int fd) {
  epoll_event event{.events = EPOLLIN, .data = {.fd = fd}};
  if (::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, fd, &event) != 0)
    return fail("watch", "a listener of the link");
  return {};
}

// A source that fails by RDMA comes by TCP, if it may: then RDMA's failure here is not the end.
Result<std::unique_ptr<LinkReceiver>> LinkListener::try_accept() {
  if (rdma_) {
    auto link = rdma_->try_accept();
    if (link && *link) return link;
    if (!link && !tcp_) return link;
    if (!link) {
      rdma_failure_ = link.error();
      rdma_.reset();
    }
  }
  if (tcp_) return tcp_->try_accept();
  return nullptr;
}

Result<ChosenLink> connect_link(const std::vector<LinkOffer>& offers, TransportWish wish,
                                const std::string& peer_address, const LinkPlace& local,
                                const LinkOptions& options, int64_t deadline_ns) {
  const Attempt attempt{offers, peer_address, local, options};
  if (wish == TransportWish::kTcp) return connect_tcp(attempt, deadline_ns, "it was asked for");
  auto rdma = connect_rdma(attempt, earlier(deadline_ns, monotonic_ns() + kRdmaPatienceNs));
  if (rdma || wish == TransportWish::kRdma) return rdma;
  return connect_tcp(attempt, deadline_ns, "RDMA does not work here: " + rdma.error().to_string());
}

}  // namespace godwit::transport
