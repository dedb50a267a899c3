#include "runtime/network/interfaces.h"

#include <ifaddrs.h>
#include <net/if.h>
#include <sched.h>

#include <map>
#include <thread>

#include "runtime/network/namespace.h"

namespace godwit::runtime {
namespace {

// Of the calling thread's network namespace: by name, whether it is up.
Result<std::map<std::string, bool>> list_interfaces() {
  ifaddrs* list = nullptr;
  if (::getifaddrs(&list) != 0) return fail("list", "network interfaces");
  std::map<std::string, bool> interfaces;
  for (const ifaddrs* entry = list; entry != nullptr; entry = entry->ifa_next)
    interfaces[entry->ifa_name] = (entry->ifa_flags & IFF_UP) != 0;
  ::freeifaddrs(list);
  return interfaces;
}

Result<std::map<std::string, bool>> interfaces_of_a_new_namespace() {
  Result<std::map<std::string, bool>> interfaces;
  std::thread thread([&] {
    if (::unshare(CLONE_NEWNET) != 0)
      interfaces = std::unexpected(fail("make", "a network namespace").error());
    else
      interfaces = list_interfaces();
  });
  thread.join();
  return interfaces;
}

}  // namespace

Result<std::vector<std::string>> foreign_interfaces(const Attachment& attachment) {
  GODWIT_ASSIGN(const auto ordinary, interfaces_of_a_new_namespace());
  std::map<std::string, bool> inside;
  GODWIT_TRY(run_in_network_namespace(attachment.network_namespace, [&]() -> Result<void> {
    GODWIT_ASSIGN(inside, list_interfaces());
    return {};
  }));
  std::vector<std::string> foreign;
  for (const auto& [name, is_up] : inside) {
    if (name == attachment.container_interface || name == "lo") continue;
    if (is_up || !ordinary.contains(name)) foreign.push_back(name);
  }
  return foreign;
}

}  // namespace godwit::runtime
