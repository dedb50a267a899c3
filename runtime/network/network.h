// A container's network: a named network namespace, attached by CNI plugins (bridge, static IPAM, given MAC).
//
// The namespace is made by us and handed to runc as a path, so that it can be prepared before the container
// exists and the address can be held back: a held attachment's host side forwards nothing.
#pragma once

#include <cstdint>
#include <string>

#include "base/result.h"

namespace godwit::runtime {

struct NetworkSpec {
  std::string container_id;
  std::string address;  // CIDR, "10.7.0.5/24"
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

class Network {
 public:
  // `directory`: where namespaces are mounted and CNI keeps its cache.
  Network(std::string directory, std::string plugin_directory = "/usr/lib/cni");
  Result<Attachment> attach(const NetworkSpec& spec, bool held);
  Result<void> detach(const NetworkSpec& spec);

 private:
  std::string directory_;
  std::string plugin_directory_;
};

// Bridge port state of the host interface: held ports neither send nor receive. One netlink message.
Result<void> hold_port(const Attachment& attachment);
Result<void> open_port(const Attachment& attachment);
// Gratuitous ARP and unsolicited neighbour advertisement, sent into the bridge as if by the container.
Result<void> announce(const Attachment& attachment);

}  // namespace godwit::runtime
