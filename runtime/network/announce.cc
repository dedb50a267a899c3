#include <arpa/inet.h>
#include <linux/if_packet.h>
#include <net/ethernet.h>
#include <netinet/icmp6.h>
#include <sys/socket.h>

#include <initializer_list>
#include <span>

#include "runtime/network/address.h"
#include "runtime/network/namespace.h"
#include "runtime/network/netlink.h"
#include "runtime/network/network.h"

namespace godwit::runtime {
namespace {

using Frame = std::vector<std::byte>;

void put(Frame& frame, std::initializer_list<unsigned> bytes) {
  for (const unsigned byte : bytes) frame.push_back(static_cast<std::byte>(byte));
}

template <typename Bytes>
void put_bytes(Frame& frame, const Bytes& bytes, size_t count) {
  for (size_t i = 0; i < count; ++i) frame.push_back(static_cast<std::byte>(bytes[i]));
}

// RFC 826 and RFC 5227: sender and target are the same address; operation 1 asks, 2 answers.
Frame gratuitous_arp(const MacAddress& mac, const InterfaceAddress& address, unsigned operation) {
  Frame frame;
  put(frame, {0xff, 0xff, 0xff, 0xff, 0xff, 0xff});
  put_bytes(frame, mac, 6);
  put(frame, {0x08, 0x06, 0, 1, 0x08, 0, 6, 4, 0, operation});
  put_bytes(frame, mac, 6);
  put_bytes(frame, address.bytes, 4);
  put(frame, {0xff, 0xff, 0xff, 0xff, 0xff, 0xff});
  put_bytes(frame, address.bytes, 4);
  return frame;
}

// RFC 1071 over the pseudo header of RFC 8200 8.1 and the message.
uint16_t icmpv6_checksum(std::span<const std::byte> addresses, std::span<const std::byte> message) {
  uint32_t sum = static_cast<uint32_t>(message.size()) + IPPROTO_ICMPV6;
  const auto add = [&](std::span<const std::byte> bytes) {
    for (size_t i = 0; i + 1 < bytes.size(); i += 2)
      sum += std::to_integer<uint32_t>(bytes[i]) << 8 | std::to_integer<uint32_t>(bytes[i + 1]);
  };
  add(addresses);
  add(message);
  while (sum >> 16 != 0) sum = (sum & 0xffff) + (sum >> 16);
  return static_cast<uint16_t>(~sum);
}

// RFC 4861 4.4, to all nodes, with the override flag and the target's link-layer address.
Frame neighbour_advertisement(const MacAddress& mac, const InterfaceAddress& address) {
  Frame frame;
  put(frame, {0x33, 0x33, 0, 0, 0, 1});
  put_bytes(frame, mac, 6);
  put(frame, {0x86, 0xdd, 0x60, 0, 0, 0, 0, 32, IPPROTO_ICMPV6, 255});
  const size_t addresses = frame.size();
  put_bytes(frame, address.bytes, 16);
  put(frame, {0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1});
  const size_t message = frame.size();
  put(frame, {ND_NEIGHBOR_ADVERT, 0, 0, 0, 0x20, 0, 0, 0});
  put_bytes(frame, address.bytes, 16);
  put(frame, {ND_OPT_TARGET_LINKADDR, 1});
  put_bytes(frame, mac, 6);
  const std::span all(frame);
  const uint16_t sum = icmpv6_checksum(all.subspan(addresses, 32), all.subspan(message));
  frame[message + 2] = static_cast<std::byte>(sum >> 8);
  frame[message + 3] = static_cast<std::byte>(sum & 0xff);
  return frame;
}

Result<Fd> open_sender(const std::string& interface) {
  GODWIT_ASSIGN(const uint32_t index, interface_index(interface));
  // Protocol 0: it only sends, and no received packet is copied to it.
  Fd socket(::socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, 0));
  if (!socket.valid()) return fail("open a packet socket for", interface);
  sockaddr_ll address{};
  address.sll_family = AF_PACKET;
  address.sll_ifindex = static_cast<int>(index);
  if (::bind(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0)
    return fail("bind a packet socket to", interface);
  return socket;
}

}  // namespace

Result<Announcer> Announcer::prepare(const Attachment& attachment) {
  GODWIT_ASSIGN(const InterfaceAddress address, parse_cidr(attachment.address));
  GODWIT_ASSIGN(const MacAddress mac, parse_mac(attachment.mac));
  Announcer announcer;
  announcer.object_ = attachment.address + " from " + attachment.network_namespace;
  if (address.is_ipv6)
    announcer.frames_.push_back(neighbour_advertisement(mac, address));
  else
    announcer.frames_ = {gratuitous_arp(mac, address, 1), gratuitous_arp(mac, address, 2)};
  GODWIT_TRY(run_in_network_namespace(attachment.network_namespace, [&]() -> Result<void> {
    GODWIT_ASSIGN(announcer.socket_, open_sender(attachment.container_interface));
    return {};
  }));
  return announcer;
}

Result<void> Announcer::announce() {
  for (const Frame& frame : frames_)
    if (::send(socket_.get(), frame.data(), frame.size(), 0) != static_cast<ssize_t>(frame.size()))
      return fail("announce", object_);
  return {};
}

Result<void> announce(const Attachment& attachment) {
  GODWIT_ASSIGN(Announcer announcer, Announcer::prepare(attachment));
  return announcer.announce();
}

}  // namespace godwit::runtime
