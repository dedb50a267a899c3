// UDP sockets. Unread datagrams are given back to the container: see read_udp.
#include <netinet/in.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include "runtime/process/descriptors/options.h"
#include "runtime/process/descriptors/sockaddr.h"
#include "runtime/process/descriptors/source.h"
#include "runtime/process/descriptors/target.h"

namespace godwit::runtime {

Result<void> read_udp(int socket, const ObjectFacts& facts, Moment moment, model::UdpSocket& udp) {
  udp.set_family(static_cast<uint32_t>(facts.family));
  GODWIT_TRY(read_local_address(socket, *udp.mutable_local_address()));
  GODWIT_TRY(read_remote_address(socket, *udp.mutable_remote_address()));
  read_options(socket, udp_options(udp.family()), *udp.mutable_options());
  if (moment == Moment::kLive) return {};
  // Unread datagrams cannot be put back under their senders' names: the container is let on for a moment, so
  // that it reads them. The network is blocked by then, so no more come.
  char byte = 0;
  if (::recv(socket, &byte, 1, MSG_PEEK | MSG_DONTWAIT | MSG_TRUNC) >= 0)
    return fail("carry", facts.link, EAGAIN, "a datagram waits to be read");
  return {};
}

Result<Fd> make_udp(const model::UdpSocket& udp) {
  Fd socket(::socket(static_cast<int>(udp.family()), SOCK_DGRAM | SOCK_CLOEXEC, IPPROTO_UDP));
  if (!socket.valid()) return fail("make", "UDP socket");
  GODWIT_TRY(apply_options(socket.get(), udp.options()));
  if (!udp.local_address().empty()) {
    GODWIT_ASSIGN(const Address local, to_address(udp.local_address(), udp.family()));
    if (::bind(socket.get(), local.get(), local.length) != 0) return fail("bind", "UDP socket");
  }
  if (!udp.remote_address().empty()) {
    GODWIT_ASSIGN(const Address remote, to_address(udp.remote_address(), udp.family()));
    if (::connect(socket.get(), remote.get(), remote.length) != 0) return fail("connect", "UDP socket");
  }
  return socket;
}

}  // namespace godwit::runtime
