// UDP sockets, with the datagrams that wait in them. A socket is filled when it is bound and before it is
// connected: what came before the program connected it, from whomever, is in the queue, too; and of several
// that share a port the one bound last gets what comes.
#include <netinet/in.h>
#include <sys/socket.h>

#include <algorithm>

#include "runtime/process/descriptors/datagrams.h"
#include "runtime/process/descriptors/options.h"
#include "runtime/process/descriptors/sockaddr.h"
#include "runtime/process/descriptors/source.h"
#include "runtime/process/descriptors/target.h"

namespace godwit::runtime {
namespace {

bool has_option(const model::UdpSocket& udp, int level, int name) {
  return std::ranges::any_of(udp.options(), [&](const model::SocketOption& option) {
    return option.level() == level && option.name() == name &&
           option.value().find_first_not_of('\0') != std::string::npos;
  });
}

// Whose datagrams cannot be put back; the container is let on for a moment, so that it reads them.
const char* unmovable_queue(const model::UdpSocket& udp) {
  if (has_option(udp, SOL_SOCKET, SO_REUSEPORT))
    return "a datagram waits to be read in a socket of a group (SO_REUSEPORT)";
  if (has_option(udp, SOL_SOCKET, SO_BINDTODEVICE))
    return "a datagram waits to be read in a socket that is bound to an interface (SO_BINDTODEVICE)";
  for (const auto& datagram : udp.queue()) {
    const auto from = to_address(datagram.source(), udp.family());
    if (!from) return "a datagram without a sender waits to be read";
    const auto* const v6 = reinterpret_cast<const sockaddr_in6*>(from->get());
    if (udp.family() == AF_INET6 && IN6_IS_ADDR_LINKLOCAL(&v6->sin6_addr))
      return "a datagram of a link-local sender waits to be read";
  }
  return nullptr;
}

}  // namespace

Result<void> read_udp(int socket, const ObjectFacts& facts, Moment moment, model::UdpSocket& udp) {
  udp.set_family(static_cast<uint32_t>(facts.family));
  GODWIT_TRY(read_local_address(socket, *udp.mutable_local_address()));
  GODWIT_TRY(read_remote_address(socket, *udp.mutable_remote_address()));
  read_options(socket, udp_options(udp.family()), *udp.mutable_options());
  if (moment == Moment::kLive) return {};
  // The network is blocked, so no more come.
  GODWIT_ASSIGN(*udp.mutable_queue(), peek_datagrams(socket));
  if (udp.queue().empty()) return {};
  if (const char* const reason = unmovable_queue(udp); reason != nullptr)
    return fail("carry", facts.link, EAGAIN, reason);
  return {};
}

Result<Fd> make_udp(const model::UdpSocket& udp) {
  Fd socket(::socket(static_cast<int>(udp.family()), SOCK_DGRAM | SOCK_CLOEXEC, IPPROTO_UDP));
  if (!socket.valid()) return fail("make", "UDP socket");
  GODWIT_TRY(apply_options(socket.get(), udp.options()));
  if (!udp.local_address().empty()) {
    GODWIT_ASSIGN(const Address local, to_address(udp.local_address(), udp.family()));
    if (::bind(socket.get(), local.get(), local.length) != 0) return fail("bind", "UDP socket");
    GODWIT_TRY(put_datagrams(socket.get(), udp));
  }
  if (!udp.remote_address().empty()) {
    GODWIT_ASSIGN(const Address remote, to_address(udp.remote_address(), udp.family()));
    if (::connect(socket.get(), remote.get(), remote.length) != 0) return fail("connect", "UDP socket");
  }
  return socket;
}

}  // namespace godwit::runtime
