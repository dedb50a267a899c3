#include <linux/if_packet.h>
#include <net/ethernet.h>
#include <sys/socket.h>

#include <string>

#include "runtime/network/netlink.h"
#include "runtime/network/parking.h"

namespace godwit::runtime {
namespace {

class PacketDelivery final : public FrameDelivery {
 public:
  PacketDelivery(Fd socket, std::string interface)
      : socket_(std::move(socket)), interface_(std::move(interface)) {}

  Result<void> deliver(std::span<const std::byte> frame) override {
    if (frame.size() < sizeof(ether_header))
      return refuse("deliver a frame to", interface_, "shorter than an Ethernet header");
    const ssize_t sent = ::send(socket_.get(), frame.data(), frame.size(), 0);
    if (sent != static_cast<ssize_t>(frame.size())) return fail("deliver a frame to", interface_);
    return {};
  }

 private:
  Fd socket_;
  std::string interface_;
};

}  // namespace

Result<std::unique_ptr<FrameDelivery>> FrameDelivery::open(const Attachment& attachment) {
  const std::string& interface = attachment.host_interface;
  GODWIT_ASSIGN(const uint32_t index, interface_index(interface));
  Fd socket(::socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, 0));
  if (!socket.valid()) return fail("open a packet socket for", interface);
  const int yes = 1;
  if (::setsockopt(socket.get(), SOL_PACKET, PACKET_QDISC_BYPASS, &yes, sizeof yes) != 0)
    return fail("set PACKET_QDISC_BYPASS for", interface);
  sockaddr_ll address{};
  address.sll_family = AF_PACKET;
  address.sll_ifindex = static_cast<int>(index);
  if (::bind(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0)
    return fail("bind a packet socket to", interface);
  return std::make_unique<PacketDelivery>(std::move(socket), interface);
}

}  // namespace godwit::runtime
