#include "transport/rdma/device.h"

#include <fcntl.h>
#include <ifaddrs.h>
#include <infiniband/verbs.h>
#include <netinet/in.h>

#include <memory>
#include <mutex>

#include "base/fd.h"
#include "base/socket_address.h"

namespace godwit::transport {
namespace {

constexpr const char* kClass = "/sys/class/infiniband/";
constexpr const char* kManager = "/dev/infiniband/rdma_cm";

std::string read_line(const std::string& path) {
  std::string text = read_file(path, 4096).value_or("");
  return text.substr(0, text.find('\n'));
}

RdmaDevice describe(ibv_device* device) {
  RdmaDevice found;
  found.name = ::ibv_get_device_name(device);
  const std::string port = kClass + found.name + "/ports/1/";
  found.interface = read_line(port + "gid_attrs/ndevs/0");
  found.link_layer = read_line(port + "link_layer");
  found.active = read_line(port + "state").ends_with("ACTIVE");
  found.usable = found.active && device->transport_type == IBV_TRANSPORT_IB;
  return found;
}

// A fork of this process must not take the pages under an adapter away (ibv_fork_init(3)); on kernels that
// see to it themselves (5.12) this does nothing. It must be the first call to the library.
int prepare_for_fork() {
  static std::once_flag once;
  static int outcome = 0;
  std::call_once(once, [] { outcome = ::ibv_fork_init(); });
  return outcome;
}

bool is_usable(const sockaddr* address, int family) {
  if (address == nullptr || address->sa_family != family) return false;
  return family != AF_INET6 ||
         !IN6_IS_ADDR_LINKLOCAL(&reinterpret_cast<const sockaddr_in6*>(address)->sin6_addr);
}

}  // namespace

std::vector<RdmaDevice> list_rdma_devices() {
  std::vector<RdmaDevice> found;
  if (prepare_for_fork() != 0) return found;
  int count = 0;
  const std::unique_ptr<ibv_device*, decltype(&::ibv_free_device_list)> list(::ibv_get_device_list(&count),
                                                                             &::ibv_free_device_list);
  if (!list) return found;
  for (int i = 0; i < count; ++i) found.push_back(describe(list.get()[i]));
  return found;
}

Result<void> probe_rdma() {
  if (const int code = prepare_for_fork(); code != 0) return fail("prepare RDMA for", "forks", code);
  const std::vector<RdmaDevice> devices = list_rdma_devices();
  if (devices.empty())
    return fail("use RDMA on", "this host", ENODEV,
                "it has no RDMA device; `godwit doctor` says how to get one");
  std::string names;
  bool usable = false;
  for (const RdmaDevice& device : devices) {
    usable = usable || device.usable;
    names += (names.empty() ? "" : ", ") + device.name + (device.active ? "" : " (down)");
  }
  if (!usable)
    return fail("use RDMA on", "this host", ENETDOWN,
                "none of its devices is up and of a kind that has WRITE WITH IMMEDIATE: " + names);
  // librdmacm complains on stderr if it is not there.
  if (auto manager = open_file(kManager, O_RDWR); !manager)
    return fail("open", kManager, manager.error().code, "modprobe rdma_ucm, and run as root");
  return {};
}

Result<std::string> address_of_device(const std::string& device) {
  for (const RdmaDevice& each : list_rdma_devices()) {
    if (each.name != device) continue;
    ifaddrs* list = nullptr;
    if (::getifaddrs(&list) != 0) return fail("list", "the addresses of this host");
    const std::unique_ptr<ifaddrs, decltype(&::freeifaddrs)> owner(list, &::freeifaddrs);
    for (const int family : {AF_INET, AF_INET6})
      for (const ifaddrs* i = list; i != nullptr; i = i->ifa_next)
        if (each.interface == i->ifa_name && is_usable(i->ifa_addr, family)) return host_of(i->ifa_addr);
    return refuse("use the RDMA device", device,
                  "its interface " + each.interface + " has no address in this network namespace");
  }
  return fail("use the RDMA device", device, ENODEV, "`rdma link` shows those that there are");
}

}  // namespace godwit::transport
