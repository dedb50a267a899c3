// Who is connected to whom among the unix sockets of a network namespace: sock_diag(7), unix_diag.
#include <linux/netlink.h>
#include <linux/sock_diag.h>
#include <linux/unix_diag.h>
#include <sys/socket.h>

#include <vector>

#include "runtime/process/descriptors/source.h"
#include "runtime/process/descriptors/unix_names.h"

namespace godwit::runtime {
namespace {

struct Request {
  nlmsghdr header{};
  unix_diag_req body{};
};

void add_socket(const nlmsghdr& header, std::unordered_map<uint64_t, UnixPeer>& sockets) {
  if (header.nlmsg_len < NLMSG_LENGTH(sizeof(unix_diag_msg))) return;
  const auto* message = static_cast<const unix_diag_msg*>(NLMSG_DATA(&header));
  UnixPeer& socket = sockets[message->udiag_ino];
  socket.state = message->udiag_state;
  const auto* bytes = reinterpret_cast<const std::byte*>(message + 1);
  size_t left = header.nlmsg_len - NLMSG_LENGTH(sizeof(unix_diag_msg));
  while (left >= sizeof(nlattr)) {
    const auto* attribute = reinterpret_cast<const nlattr*>(bytes);
    if (attribute->nla_len < sizeof(nlattr) || attribute->nla_len > left) return;
    const std::byte* value = bytes + NLA_HDRLEN;
    const size_t size = attribute->nla_len - NLA_HDRLEN;
    if (attribute->nla_type == UNIX_DIAG_NAME) {
      socket.name.assign(reinterpret_cast<const char*>(value), size);
      if (is_path(socket.name) && socket.name.back() == '\0') socket.name.pop_back();
    } else if (attribute->nla_type == UNIX_DIAG_PEER && size >= sizeof(uint32_t)) {
      socket.peer = *reinterpret_cast<const uint32_t*>(value);
    } else if (attribute->nla_type == UNIX_DIAG_RQLEN && size >= sizeof(unix_diag_rqlen)) {
      const auto* lengths = reinterpret_cast<const unix_diag_rqlen*>(value);
      socket.pending = lengths->udiag_rqueue;
      socket.backlog = lengths->udiag_wqueue;
    } else if (attribute->nla_type == UNIX_DIAG_SHUTDOWN && size >= 1) {
      socket.shutdown = static_cast<uint8_t>(*value);
    }
    const size_t step = NLA_ALIGN(attribute->nla_len);
    if (step >= left) return;
    bytes += step;
    left -= step;
  }
}

}  // namespace

Result<std::unordered_map<uint64_t, UnixPeer>> list_unix_sockets(const NetworkNamespace& network) {
  Fd netlink;
  {
    GODWIT_ASSIGN(const NetworkNamespace::Scope scope, network.enter());
    netlink.reset(::socket(AF_NETLINK, SOCK_DGRAM | SOCK_CLOEXEC, NETLINK_SOCK_DIAG));
    if (!netlink.valid()) return fail("open", "sock_diag");
  }
  Request request;
  request.header.nlmsg_len = sizeof request;
  request.header.nlmsg_type = SOCK_DIAG_BY_FAMILY;
  request.header.nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP;
  request.body.sdiag_family = AF_UNIX;
  request.body.udiag_states = ~0U;
  request.body.udiag_show = UDIAG_SHOW_NAME | UDIAG_SHOW_PEER | UDIAG_SHOW_RQLEN;
  if (::send(netlink.get(), &request, sizeof request, 0) < 0) return fail("ask", "sock_diag");
  std::unordered_map<uint64_t, UnixPeer> sockets;
  alignas(nlmsghdr) char buffer[65536];
  for (;;) {
    const ssize_t got = ::recv(netlink.get(), buffer, sizeof buffer, 0);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return fail("read", "sock_diag");
    auto left = static_cast<unsigned>(got);
    for (auto* header = reinterpret_cast<nlmsghdr*>(buffer); NLMSG_OK(header, left);
         header = NLMSG_NEXT(header, left)) {
      if (header->nlmsg_type == NLMSG_DONE) return sockets;
      if (header->nlmsg_type == NLMSG_ERROR)
        return fail("read", "sock_diag", EIO, "the kernel needs CONFIG_UNIX_DIAG");
      add_socket(*header, sockets);
    }
  }
}

}  // namespace godwit::runtime
