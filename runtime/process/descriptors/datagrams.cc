#include "runtime/process/descriptors/datagrams.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/ip.h>
#include <netinet/ip6.h>
#include <netinet/udp.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <optional>
#include <vector>

#include "base/clock.h"
#include "base/fd.h"
#include "runtime/process/descriptors/options.h"
#include "runtime/process/descriptors/sockaddr.h"

namespace godwit::runtime {
namespace {

using Datagram = model::UdpSocket::Datagram;

constexpr size_t kDatagramMax = 64 << 10;
constexpr uint8_t kTtl = 64;

// Where it was sent to, if the program has asked to be told that, too: else it makes no difference.
Result<void> read_destination(msghdr& header, Datagram& datagram) {
  bool is_ours = true;
  for (cmsghdr* item = CMSG_FIRSTHDR(&header); item != nullptr; item = CMSG_NXTHDR(&header, item)) {
    if (item->cmsg_level == IPPROTO_IP && item->cmsg_type == IP_PKTINFO) {
      in_pktinfo info{};
      std::memcpy(&info, CMSG_DATA(item), sizeof info);
      is_ours = info.ipi_spec_dst.s_addr == 0 || info.ipi_addr.s_addr == info.ipi_spec_dst.s_addr;
      datagram.set_destination(&info.ipi_addr, sizeof info.ipi_addr);
    } else if (item->cmsg_level == IPPROTO_IPV6 && item->cmsg_type == IPV6_PKTINFO) {
      in6_pktinfo info{};
      std::memcpy(&info, CMSG_DATA(item), sizeof info);
      is_ours = !IN6_IS_ADDR_MULTICAST(&info.ipi6_addr);
      if (IN6_IS_ADDR_V4MAPPED(&info.ipi6_addr))
        datagram.set_destination(info.ipi6_addr.s6_addr + 12, sizeof(in_addr));
      else
        datagram.set_destination(&info.ipi6_addr, sizeof info.ipi6_addr);
    }
  }
  if (!is_ours) return fail("carry", "UDP socket", EAGAIN, "a datagram to a group waits to be read");
  return {};
}

// The next one from the peek offset on, if there is one.
Result<std::optional<Datagram>> peek_datagram(int socket) {
  constexpr int kErrorsMax = 16;
  std::vector<char> payload(kDatagramMax);
  iovec part = {.iov_base = payload.data(), .iov_len = payload.size()};
  alignas(cmsghdr) char control[1024];
  sockaddr_storage sender{};
  msghdr header{};
  ssize_t got = -1;
  for (int errors = 0; got < 0; ++errors) {
    header = {};
    header.msg_name = &sender;
    header.msg_namelen = sizeof sender;
    header.msg_iov = &part;
    header.msg_iovlen = 1;
    header.msg_control = control;
    header.msg_controllen = sizeof control;
    got = ::recvmsg(socket, &header, MSG_PEEK | MSG_DONTWAIT);
    if (got < 0 && errno == EAGAIN) return std::nullopt;
    if (got < 0 && errors == kErrorsMax) return fail("read the queue of", "UDP socket");
  }
  Datagram datagram;
  datagram.set_source(&sender, header.msg_namelen);
  datagram.set_payload(payload.data(), static_cast<size_t>(got));
  GODWIT_TRY(read_destination(header, datagram));
  return datagram;
}

Result<Datagrams> peek_from_offset(int socket) {
  Datagrams datagrams;
  for (;;) {
    GODWIT_ASSIGN(auto datagram, peek_datagram(socket));
    if (!datagram) return datagrams;
    *datagrams.Add() = *std::move(datagram);
  }
}

// Addresses and ports of one packet, as IPv4 where both ends are.
struct Route {
  bool ipv6 = false;
  in6_addr from6{}, to6{};
  in_addr from4{}, to4{};
  uint16_t from_port = 0, to_port = 0;  // network order
};

void take_address(const Address& address, bool& ipv6, in6_addr& six, in_addr& four, uint16_t& port) {
  if (address.storage.ss_family == AF_INET) {
    const auto* const v4 = reinterpret_cast<const sockaddr_in*>(&address.storage);
    four = v4->sin_addr;
    port = v4->sin_port;
    return;
  }
  const auto* const v6 = reinterpret_cast<const sockaddr_in6*>(&address.storage);
  six = v6->sin6_addr;
  port = v6->sin6_port;
  ipv6 = !IN6_IS_ADDR_V4MAPPED(&six);
  std::memcpy(&four, six.s6_addr + 12, sizeof four);
}

// To where the socket is bound, or the program is told that it was sent; else to loopback.
Result<Route> route_of(const Datagram& datagram, const model::UdpSocket& udp) {
  Route route;
  bool bound_to_ipv6 = false;
  GODWIT_ASSIGN(const Address from, to_address(datagram.source(), udp.family()));
  GODWIT_ASSIGN(const Address to, to_address(udp.local_address(), udp.family()));
  take_address(from, route.ipv6, route.from6, route.from4, route.from_port);
  take_address(to, bound_to_ipv6, route.to6, route.to4, route.to_port);
  const std::string& told = datagram.destination();
  if (told.size() == (route.ipv6 ? sizeof route.to6 : sizeof route.to4)) {
    if (route.ipv6)
      std::memcpy(&route.to6, told.data(), sizeof route.to6);
    else
      std::memcpy(&route.to4, told.data(), sizeof route.to4);
  }
  if (route.ipv6 && IN6_IS_ADDR_UNSPECIFIED(&route.to6)) route.to6 = in6addr_loopback;
  if (!route.ipv6 && route.to4.s_addr == 0) route.to4.s_addr = htonl(INADDR_LOOPBACK);
  return route;
}

uint32_t sum_words(uint32_t sum, const void* bytes, size_t length) {
  const auto* at = static_cast<const uint8_t*>(bytes);
  for (size_t i = 0; i < length; ++i) sum += static_cast<uint32_t>(at[i]) << (i % 2 == 0 ? 8 : 0);
  while (sum > 0xffff) sum = (sum & 0xffff) + (sum >> 16);
  return sum;
}

std::string udp_part(const Route& route, const std::string& payload) {
  const auto length = static_cast<uint16_t>(sizeof(udphdr) + payload.size());
  udphdr header{};
  header.source = route.from_port;
  header.dest = route.to_port;
  header.len = htons(length);
  std::string part(reinterpret_cast<const char*>(&header), sizeof header);
  part += payload;
  if (!route.ipv6) return part;  // no checksum: IPv4 allows that
  uint32_t sum = sum_words(IPPROTO_UDP + length, &route.from6, sizeof route.from6);
  sum = sum_words(sum, &route.to6, sizeof route.to6);
  sum = sum_words(sum, part.data(), part.size());
  const auto check = static_cast<uint16_t>(sum == 0xffff ? 0xffff : ~sum);  // 0 says that there is none
  header.check = htons(check);
  std::memcpy(part.data(), &header, sizeof header);
  return part;
}

// Length, identification and checksum of an IPv4 header are filled in by the kernel (raw(7)).
std::string packet_of(const Route& route, const std::string& payload) {
  const std::string part = udp_part(route, payload);
  std::string packet;
  if (route.ipv6) {
    ip6_hdr header{};
    header.ip6_flow = htonl(6U << 28);
    header.ip6_plen = htons(static_cast<uint16_t>(part.size()));
    header.ip6_nxt = IPPROTO_UDP;
    header.ip6_hlim = kTtl;
    header.ip6_src = route.from6;
    header.ip6_dst = route.to6;
    packet.assign(reinterpret_cast<const char*>(&header), sizeof header);
  } else {
    iphdr header{};
    header.version = 4;
    header.ihl = sizeof header / 4;
    header.ttl = kTtl;
    header.protocol = IPPROTO_UDP;
    header.saddr = route.from4.s_addr;
    header.daddr = route.to4.s_addr;
    packet.assign(reinterpret_cast<const char*>(&header), sizeof header);
  }
  return packet + part;
}

Result<void> send_packet(const Route& route, const std::string& payload) {
  const std::string packet = packet_of(route, payload);
  const Fd raw(::socket(route.ipv6 ? AF_INET6 : AF_INET, SOCK_RAW | SOCK_CLOEXEC, IPPROTO_RAW));
  if (!raw.valid()) return fail("open", "a raw socket");
  sockaddr_in6 to6{};
  to6.sin6_family = AF_INET6;
  to6.sin6_addr = route.to6;
  sockaddr_in to4{};
  to4.sin_family = AF_INET;
  to4.sin_addr = route.to4;
  const auto* const to =
      route.ipv6 ? reinterpret_cast<const sockaddr*>(&to6) : reinterpret_cast<const sockaddr*>(&to4);
  const socklen_t length = route.ipv6 ? sizeof to6 : sizeof to4;
  const int room = 1 << 20;
  ::setsockopt(raw.get(), SOL_SOCKET, SO_SNDBUFFORCE, &room, sizeof room);  // without it, small ones fit
  if (::sendto(raw.get(), packet.data(), packet.size(), 0, to, length) != static_cast<ssize_t>(packet.size()))
    return fail("put back a datagram of", "UDP socket");
  return {};
}

// An empty one has been seen at most once.
std::vector<const Datagram*> visible(const Datagrams& datagrams) {
  std::vector<const Datagram*> all;
  for (const Datagram& one : datagrams)
    if (!one.payload().empty()) all.push_back(&one);
  return all;
}

bool same(const Datagrams& left, const Datagrams& right) {
  return std::ranges::equal(visible(left), visible(right), [](const Datagram* one, const Datagram* other) {
    return one->source() == other->source() && one->payload() == other->payload();
  });
}

// The kernel may leave what it sends itself to its ksoftirqd.
Result<void> await_queue(int socket, const Datagrams& wanted) {
  constexpr int64_t kPatienceUs = 2'000'000;
  constexpr unsigned kPauseUs = 50;
  const int64_t end_us = monotonic_us() + kPatienceUs;
  for (;;) {
    GODWIT_ASSIGN(const Datagrams there, peek_datagrams(socket));
    if (same(there, wanted)) return {};
    if (monotonic_us() > end_us)
      return refuse("put back the datagrams of", "UDP socket",
                    std::to_string(there.size()) + " of " + std::to_string(wanted.size()) + " arrived");
    ::usleep(kPauseUs);
  }
}

}  // namespace

Result<Datagrams> peek_datagrams(int socket) {
  int before = -1;
  socklen_t length = sizeof before;
  if (::getsockopt(socket, SOL_SOCKET, SO_PEEK_OFF, &before, &length) != 0)
    return fail("ask the peek offset of", "UDP socket");
  const int from_start = 0;
  if (::setsockopt(socket, SOL_SOCKET, SO_PEEK_OFF, &from_start, sizeof from_start) != 0)
    return fail("set the peek offset of", "UDP socket");
  auto datagrams = peek_from_offset(socket);
  if (::setsockopt(socket, SOL_SOCKET, SO_PEEK_OFF, &before, sizeof before) != 0)
    return fail("give back the peek offset of", "UDP socket");
  return datagrams;
}

Result<void> put_datagrams(int socket, const model::UdpSocket& udp) {
  if (udp.queue().empty()) return {};
  // What fitted there takes a little more room here, perhaps.
  constexpr int kRoom = 64 << 20;
  if (::setsockopt(socket, SOL_SOCKET, SO_RCVBUFFORCE, &kRoom, sizeof kRoom) != 0)
    return fail("make room in", "UDP socket");
  for (const Datagram& datagram : udp.queue()) {
    GODWIT_ASSIGN(const Route route, route_of(datagram, udp));
    GODWIT_TRY(send_packet(route, datagram.payload()));
  }
  GODWIT_TRY(await_queue(socket, udp.queue()));
  GODWIT_TRY(apply_option(socket, udp.options(), {SOL_SOCKET, SO_RCVBUF}));
  return apply_option(socket, udp.options(), {SOL_SOCKET, SO_BUF_LOCK});
}

}  // namespace godwit::runtime
