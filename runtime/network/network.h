// A container's network: a named network namespace, attached by CNI plugins (bridge, static IPAM, given MAC).
//
// The namespace is made by us and handed to runc as a path, so that it can be prepared before the container
// exists and the address can be held back: a held attachment's host side forwards nothing.
//
// CNI's bridge plugin announces an address as soon as it is configured, which would divert the packets of a
// container that still runs elsewhere. So the plugin works on a scratch bridge without an uplink, and the
// finished port then moves to the real bridge with a filter on it that lets no frame of the container pass
// until the port is held (or, if not held, until attach() returns).
//
// All functions work in the network namespace of the calling thread, which is that of the host.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "base/fd.h"
#include "base/result.h"
#include "runtime/network/address.h"
#include "runtime/network/netlink.h"

namespace godwit::runtime {

struct NetworkSpec {
  std::string container_id;  // [A-Za-z0-9_.-], at most 128, not starting with '.'
  std::string address;       // CIDR, "10.7.0.5/24"
  std::string mac;      // "02:..."; empty: derived from the address, so that it is the same on every host
  std::string bridge;   // a bridge of this host that its uplink is a port of
  std::string gateway;  // may be empty
  uint32_t mtu = 0;     // 0: the bridge's
};

struct Attachment {
  std::string network_namespace;    // path
  std::string container_interface;  // "eth0"
  std::string host_interface;       // its peer, a port of the bridge
  std::string bridge;
  std::string address;  // CIDR
  std::string mac;
};

// One container is attached or detached by one caller at a time; different containers in parallel.
class Network {
 public:
  // `directory`: where namespaces are mounted and attachments are recorded.
  explicit Network(std::string directory, std::string plugin_directory = "/usr/lib/cni");
  // EEXIST if the container is attached already (or a killed run left it): detach first. A failure leaves
  // nothing behind. Takes 50-200 ms: the plugins are programs.
  Result<Attachment> attach(const NetworkSpec& spec, bool held);
  // Removes the interfaces, the namespace and the record, also what an attach() that was killed left, and
  // what parking left: it is at the interfaces and goes with them.
  Result<void> detach(const NetworkSpec& spec);
  // The attachment as attach() recorded it; ENOENT if there is none. Survives a restart of the agent.
  [[nodiscard]] Result<Attachment> find(const std::string& container_id) const;

 private:
  std::string directory_;
  std::string plugin_directory_;
};

// The bridge port of the host interface. A held port neither sends nor receives; neither carrier changes nor
// new ports open it. Not thread-safe.
//
// prepare() opens and looks up all that open() and hold() need, so that each of them is one message to the
// kernel. What is left to fail is the kernel's: the interface is gone (ENODEV) or has no carrier (ENETDOWN),
// or somebody has switched STP on (EBUSY; attach() refuses a bridge that runs STP in the kernel).
class Port {
 public:
  static Result<Port> prepare(const Attachment& attachment);
  Result<void> open();
  Result<void> hold();
  // The bridge forgets that the container is at this port; else it would send frames into the held port until
  // it hears the container elsewhere. Where it has heard it already there is nothing to do.
  Result<void> forget_container();

 private:
  Port(Netlink netlink, uint32_t index, MacAddress mac, std::string interface)
      : netlink_(std::move(netlink)), index_(index), mac_(mac), interface_(std::move(interface)) {}
  Netlink netlink_;
  uint32_t index_;
  MacAddress mac_;
  std::string interface_;
};
// Port::prepare() and one of the others.
Result<void> hold_port(const Attachment& attachment);
Result<void> open_port(const Attachment& attachment);

// Gratuitous ARP (request and reply form) or an unsolicited neighbour advertisement (RFC 5227, RFC 4861
// 7.2.6), sent by the container's own interface, so that its bridge and every switch on the way learn the
// new place. The port must be open, and the port of the old place sealed, or else it takes the place back.
class Announcer {
 public:
  // Opens the socket inside the container's namespace ahead of time, so that announce() costs a send or two.
  static Result<Announcer> prepare(const Attachment& attachment);
  Result<void> announce();

 private:
  Announcer() = default;
  Fd socket_;
  std::string object_;
  std::vector<std::vector<std::byte>> frames_;
};
// prepare() and announce() in one.
Result<void> announce(const Attachment& attachment);

}  // namespace godwit::runtime
