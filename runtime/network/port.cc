#include <linux/if_bridge.h>
#include <linux/neighbour.h>
#include <linux/rtnetlink.h>
#include <sys/socket.h>

#include "runtime/network/network.h"

namespace godwit::runtime {
namespace {

// Not DISABLED, which any carrier event ends, nor BLOCKING, which the kernel turns into forwarding at once
// where no STP runs: a listening port forwards nothing, learns nothing and stays as it is.
constexpr uint8_t kHeldState = BR_STATE_LISTENING;

}  // namespace

Result<Port> Port::prepare(const Attachment& attachment) {
  GODWIT_ASSIGN(const MacAddress mac, parse_mac(attachment.mac));
  GODWIT_ASSIGN(const uint32_t index, interface_index(attachment.host_interface));
  GODWIT_ASSIGN(Netlink netlink, Netlink::open());
  return Port(std::move(netlink), index, mac, attachment.host_interface);
}

Result<void> Port::open() {
  return set_port_state(netlink_, index_, BR_STATE_FORWARDING, interface_);
}

Result<void> Port::hold() {
  return set_port_state(netlink_, index_, kHeldState, interface_);
}

Result<void> Port::forget_container() {
  ndmsg entry{};
  entry.ndm_family = AF_BRIDGE;
  entry.ndm_ifindex = static_cast<int>(index_);
  entry.ndm_flags = NTF_MASTER;
  NetlinkMessage message(RTM_DELNEIGH, 0);
  message.header(entry).attribute(NDA_LLADDR, mac_.data(), mac_.size());
  auto forgotten = netlink_.request(std::move(message), "forget the address of the container at", interface_);
  if (!forgotten && forgotten.error().code == ENOENT) return {};
  return forgotten;
}

Result<void> hold_port(const Attachment& attachment) {
  GODWIT_ASSIGN(Port port, Port::prepare(attachment));
  return port.hold();
}

Result<void> open_port(const Attachment& attachment) {
  GODWIT_ASSIGN(Port port, Port::prepare(attachment));
  return port.open();
}

}  // namespace godwit::runtime
