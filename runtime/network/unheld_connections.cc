#include "runtime/network/unheld_connections.h"

#include <arpa/inet.h>
#include <linux/inet_diag.h>
#include <linux/netlink.h>
#include <linux/sock_diag.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

#include <array>

#include "runtime/network/namespace.h"

namespace godwit::runtime {
namespace {

// A peer that has missed so many repetitions has been silent for more than a second.
constexpr uint8_t kRepetitionsMax = 3;

struct Request {
  nlmsghdr header{};
  inet_diag_req_v2 body{};
};

std::string place_of(const inet_diag_msg& socket, bool with_peer) {
  std::string place = "port " + std::to_string(ntohs(socket.id.idiag_sport));
  std::array<char, INET6_ADDRSTRLEN> text{};
  if (with_peer && ::inet_ntop(socket.idiag_family, static_cast<const void*>(socket.id.idiag_dst),
                               text.data(), text.size()) != nullptr)
    place += std::string(" to ") + text.data();
  return place;
}

void add(const inet_diag_msg& socket, UnheldConnections& found) {
  switch (socket.idiag_state) {
    case TCP_SYN_RECV:
      ++found.handshakes;
      return;
    case TCP_LISTEN:  // idiag_rqueue: how many connections wait in it
      found.unaccepted += socket.idiag_rqueue;
      if (socket.idiag_rqueue != 0) found.unaccepted_at = place_of(socket, false);
      return;
    default:
      if (socket.idiag_inode != 0 || socket.idiag_retrans >= kRepetitionsMax) return;
      ++found.closing;
      found.closing_at = place_of(socket, true);
  }
}

}  // namespace

Result<ConnectionWatch> ConnectionWatch::open(const std::string& network_namespace) {
  Fd netlink;
  GODWIT_TRY(run_in_network_namespace(network_namespace, [&]() -> Result<void> {
    netlink.reset(::socket(AF_NETLINK, SOCK_DGRAM | SOCK_CLOEXEC, NETLINK_SOCK_DIAG));
    if (!netlink.valid()) return fail("open", "sock_diag");
    return {};
  }));
  ConnectionWatch watch(std::move(netlink));
  GODWIT_TRY(watch.look());
  return watch;
}

Result<UnheldConnections> ConnectionWatch::look() {
  UnheldConnections found;
  for (const int family : {AF_INET, AF_INET6}) GODWIT_TRY(look_at(family, found));
  return found;
}

Result<void> ConnectionWatch::look_at(int family, UnheldConnections& found) {
  Request request;
  request.header.nlmsg_len = sizeof request;
  request.header.nlmsg_type = SOCK_DIAG_BY_FAMILY;
  request.header.nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP;
  request.body.sdiag_family = static_cast<uint8_t>(family);
  request.body.sdiag_protocol = IPPROTO_TCP;
  for (const int state : {TCP_LISTEN, TCP_SYN_RECV, TCP_FIN_WAIT1, TCP_CLOSING, TCP_LAST_ACK})
    request.body.idiag_states |= 1U << state;
  if (::send(netlink_.get(), &request, sizeof request, 0) < 0) return fail("ask", "sock_diag");
  alignas(nlmsghdr) std::array<char, 65536> buffer{};
  for (;;) {
    const ssize_t got = ::recv(netlink_.get(), buffer.data(), buffer.size(), 0);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return fail("read", "sock_diag");
    auto left = static_cast<unsigned>(got);
    for (auto* header = reinterpret_cast<nlmsghdr*>(buffer.data()); NLMSG_OK(header, left);
         header = NLMSG_NEXT(header, left)) {
      if (header->nlmsg_type == NLMSG_DONE) return {};
      if (header->nlmsg_type == NLMSG_ERROR)
        return fail("read", "sock_diag", EIO, "the kernel needs CONFIG_INET_DIAG and CONFIG_INET_TCP_DIAG");
      if (header->nlmsg_len < NLMSG_LENGTH(sizeof(inet_diag_msg))) continue;
      add(*static_cast<const inet_diag_msg*>(NLMSG_DATA(header)), found);
    }
  }
}

}  // namespace godwit::runtime
