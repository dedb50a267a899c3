#include "runtime/network/leftovers.h"

#include "runtime/network/grace.h"
#include "runtime/network/ingress_filter.h"
#include "runtime/network/loopback_gate.h"
#include "runtime/network/namespace.h"
#include "runtime/network/netlink.h"

namespace godwit::runtime {

// The container's program first: while it sends frames back, the one at the host's end must be there, or the
// bridge would learn their senders' addresses at the wrong port.
Result<void> remove_park_programs(const Attachment& attachment) {
  GODWIT_TRY(run_in_network_namespace(attachment.network_namespace, [&]() -> Result<void> {
    GODWIT_ASSIGN(const uint32_t index, interface_index(attachment.container_interface));
    return remove_ingress_filters(index, attachment.container_interface);
  }));
  GODWIT_TRY(remove_loopback_gate(attachment.network_namespace));
  GODWIT_TRY(wait_for_packet_processing());
  GODWIT_ASSIGN(const uint32_t index, interface_index(attachment.host_interface));
  return remove_ingress_filters(index, attachment.host_interface);
}

Result<void> unpark_leftovers(const Attachment& attachment) {
  GODWIT_TRY(remove_park_programs(attachment));
  return open_port(attachment);
}

Result<void> hold_leftovers(const Attachment& attachment) {
  auto port = Port::prepare(attachment);
  if (!port && port.error().code == ENODEV) return {};
  if (!port) return std::unexpected(port.error());
  GODWIT_TRY(port->hold());
  return port->forget_container();
}

}  // namespace godwit::runtime
