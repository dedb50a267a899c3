// The RDMA devices of this host: what there is, and what is missing.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/result.h"

namespace godwit::transport {

struct RdmaDevice {
  std::string name;        // as `rdma link` shows it: "mlx5_0", "rxe0"
  std::string interface;   // the network interface beneath port 1; empty if there is none
  std::string link_layer;  // "Ethernet" (RoCE, iWARP), "InfiniBand"
  bool active = false;     // port 1
  bool usable = false;     // active, and has what a link needs: iWARP has no WRITE WITH IMMEDIATE
};

// Empty where there are none.
std::vector<RdmaDevice> list_rdma_devices();
// Nothing if this process may use RDMA over at least one device; else why not, and what to do.
Result<void> probe_rdma();
// A numeric address of the network interface beneath this device: what selects the device for librdmacm.
// IPv4 before IPv6, and no link-local ones.
Result<std::string> address_of_device(const std::string& device);

}  // namespace godwit::transport
