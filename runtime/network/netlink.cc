#include "runtime/network/netlink.h"

#include <linux/if_bridge.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include <array>
#include <cstring>

namespace godwit::runtime {

NetlinkMessage::NetlinkMessage(uint16_t type, uint16_t flags) {
  buffer_.reserve(256);
  nlmsghdr header{};
  header.nlmsg_type = type;
  header.nlmsg_flags = static_cast<uint16_t>(NLM_F_REQUEST | NLM_F_ACK | flags);
  append(&header, sizeof header);
}

void NetlinkMessage::append(const void* data, size_t bytes) {
  const auto* const begin = static_cast<const std::byte*>(data);
  buffer_.insert(buffer_.end(), begin, begin + bytes);
  buffer_.resize(NLMSG_ALIGN(buffer_.size()));
}

NetlinkMessage& NetlinkMessage::attribute(uint16_t type, const void* data, size_t bytes) {
  const rtattr header{.rta_len = static_cast<uint16_t>(RTA_LENGTH(bytes)), .rta_type = type};
  append(&header, sizeof header);
  append(data, bytes);
  return *this;
}

NetlinkMessage& NetlinkMessage::open(uint16_t type) {
  nested_.push_back(buffer_.size());
  return attribute(type, nullptr, 0);
}

NetlinkMessage& NetlinkMessage::close() {
  const auto length = static_cast<uint16_t>(buffer_.size() - nested_.back());
  std::memcpy(buffer_.data() + nested_.back() + offsetof(rtattr, rta_len), &length, sizeof length);
  nested_.pop_back();
  return *this;
}

std::span<const std::byte> NetlinkMessage::finish(uint32_t sequence) {
  const auto length = static_cast<uint32_t>(buffer_.size());
  std::memcpy(buffer_.data() + offsetof(nlmsghdr, nlmsg_len), &length, sizeof length);
  std::memcpy(buffer_.data() + offsetof(nlmsghdr, nlmsg_seq), &sequence, sizeof sequence);
  return buffer_;
}

Result<Netlink> Netlink::open() {
  Fd socket(::socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE));
  if (!socket.valid()) return fail("open", "a route netlink socket");
  sockaddr_nl kernel{};
  kernel.nl_family = AF_NETLINK;
  if (::connect(socket.get(), reinterpret_cast<const sockaddr*>(&kernel), sizeof kernel) != 0)
    return fail("connect", "a route netlink socket");
  return Netlink(std::move(socket));
}

Result<void> Netlink::request(NetlinkMessage message, std::string_view operation, const std::string& object) {
  const auto bytes = message.finish(++sequence_);
  if (::send(socket_.get(), bytes.data(), bytes.size(), 0) < 0) return fail(std::string(operation), object);
  // An acknowledgement repeats the request, which is a few hundred bytes at most.
  alignas(nlmsghdr) std::array<std::byte, 4096> reply{};
  for (;;) {
    const ssize_t received = ::recv(socket_.get(), reply.data(), reply.size(), 0);
    if (received < 0 && errno == EINTR) continue;
    if (received < 0) return fail(std::string(operation), object);
    if (static_cast<size_t>(received) < sizeof(nlmsghdr) + sizeof(nlmsgerr))
      return fail(std::string(operation), object, EPROTO, "short answer of the kernel");
    nlmsghdr header{};
    std::memcpy(&header, reply.data(), sizeof header);
    if (header.nlmsg_seq != sequence_ || header.nlmsg_type != NLMSG_ERROR) continue;
    nlmsgerr error{};
    std::memcpy(&error, reply.data() + NLMSG_HDRLEN, sizeof error);
    if (error.error != 0) return fail(std::string(operation), object, -error.error);
    return {};
  }
}

Result<uint32_t> interface_index(const std::string& name) {
  const uint32_t index = ::if_nametoindex(name.c_str());
  if (index == 0) return fail("find the interface", name);
  return index;
}

Result<uint32_t> interface_mtu(const std::string& name) {
  const Fd socket(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  if (!socket.valid()) return fail("open", "a socket");
  ifreq request{};
  if (name.size() >= sizeof request.ifr_name) return fail("find the interface", name, ENODEV);
  std::memcpy(request.ifr_name, name.data(), name.size());
  if (::ioctl(socket.get(), SIOCGIFMTU, &request) != 0) return fail("read the MTU of", name);
  return static_cast<uint32_t>(request.ifr_mtu);
}

namespace {

ifinfomsg link_header(uint32_t index, uint8_t family = AF_UNSPEC) {
  ifinfomsg info{};
  info.ifi_family = family;
  info.ifi_index = static_cast<int>(index);
  return info;
}

}  // namespace

Result<void> set_link_up(Netlink& netlink, uint32_t index, const std::string& name) {
  ifinfomsg info = link_header(index);
  info.ifi_flags = IFF_UP;
  info.ifi_change = IFF_UP;
  return netlink.request(NetlinkMessage(RTM_NEWLINK, 0).header(info), "bring up", name);
}

Result<void> set_link_master(Netlink& netlink, uint32_t index, uint32_t master, const std::string& name) {
  return netlink.request(NetlinkMessage(RTM_NEWLINK, 0).header(link_header(index)).u32(IFLA_MASTER, master),
                         "make a port of the bridge of", name);
}

Result<void> delete_link(Netlink& netlink, const std::string& name) {
  const auto deleted =
      netlink.request(NetlinkMessage(RTM_DELLINK, 0).header(link_header(0)).text(IFLA_IFNAME, name),
                      "delete the interface", name);
  if (!deleted && deleted.error().code == ENODEV) return {};
  return deleted;
}

Result<void> set_port_state(Netlink& netlink, uint32_t index, uint8_t state, const std::string& name) {
  NetlinkMessage message(RTM_SETLINK, 0);
  message.header(link_header(index, AF_BRIDGE))
      .open(IFLA_PROTINFO | NLA_F_NESTED)
      .u8(IFLA_BRPORT_STATE, state)
      .close();
  return netlink.request(std::move(message), "set the bridge port state of", name);
}

}  // namespace godwit::runtime
