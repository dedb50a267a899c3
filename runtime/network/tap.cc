#include "runtime/network/tap.h"

#include <fcntl.h>
#include <linux/if_link.h>
#include <linux/if_tun.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <net/if_arp.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include <cstring>

#include "runtime/network/netlink.h"

namespace godwit::runtime {
namespace {

// No link-local address: no duplicate address detection, no router solicitation. A kernel without IPv6
// has no such setting and needs none.
Result<void> silence_ipv6(Netlink& netlink, const Tap& tap) {
  ifinfomsg info{};
  info.ifi_index = static_cast<int>(tap.index);
  NetlinkMessage message(RTM_NEWLINK, 0);
  message.header(info)
      .open(IFLA_AF_SPEC | NLA_F_NESTED)
      .open(AF_INET6 | NLA_F_NESTED)
      .u8(IFLA_INET6_ADDR_GEN_MODE, IN6_ADDR_GEN_MODE_NONE)
      .close()
      .close();
  auto done = netlink.request(std::move(message), "switch off IPv6 addresses of", tap.name);
  if (!done && done.error().code == EAFNOSUPPORT) return {};
  return done;
}

Result<void> configure(Netlink& netlink, const Tap& tap, const MacAddress& mac, uint32_t mtu,
                       uint32_t frames_max) {
  ifinfomsg info{};
  info.ifi_index = static_cast<int>(tap.index);
  NetlinkMessage message(RTM_NEWLINK, 0);
  message.header(info)
      .attribute(IFLA_ADDRESS, mac.data(), mac.size())
      .u32(IFLA_MTU, mtu)
      .u32(IFLA_TXQLEN, frames_max);
  return netlink.request(std::move(message), "configure", tap.name);
}

}  // namespace

Result<Tap> make_tap(const MacAddress& mac, uint32_t mtu, uint32_t frames_max) {
  const char* const device = "/dev/net/tun";
  Tap tap;
  GODWIT_ASSIGN(tap.fd, open_file(device, O_RDWR | O_NONBLOCK));
  ifreq request{};
  constexpr char kPattern[] = "gwpark%d";
  std::memcpy(request.ifr_name, kPattern, sizeof kPattern);
  request.ifr_flags = IFF_TAP | IFF_NO_PI;
  if (::ioctl(tap.fd.get(), TUNSETIFF, &request) != 0) return fail("make a tap device by", device);
  tap.name = request.ifr_name;
  GODWIT_ASSIGN(tap.index, interface_index(tap.name));
  GODWIT_ASSIGN(Netlink netlink, Netlink::open());
  GODWIT_TRY(silence_ipv6(netlink, tap));
  GODWIT_TRY(configure(netlink, tap, mac, mtu, frames_max));
  GODWIT_TRY(set_link_up(netlink, tap.index, tap.name));
  return tap;
}

}  // namespace godwit::runtime
