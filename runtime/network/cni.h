// Runs CNI plugins as the specification says: the configuration as JSON on stdin, parameters in the
// environment, the result as JSON on stdout. No shell.
#pragma once

#include <string>

#include "base/result.h"
#include "runtime/network/network.h"

namespace godwit::runtime {

struct CniCall {
  std::string plugin_directory;
  std::string container_id;
  std::string network_namespace;  // path
  std::string bridge;
  std::string address;
  std::string gateway;
  std::string mac;
  uint32_t mtu = 0;
};

inline constexpr const char* kContainerInterface = "eth0";

// The name of the interface at the host's side. The address and MAC of the result are checked.
[[nodiscard]] Result<std::string> cni_add(const CniCall& call);
Result<void> cni_del(const CniCall& call);

// Exposed for tests: the host's interface named by an ADD result, which is untrusted text.
[[nodiscard]] Result<std::string> read_cni_result(const std::string& text, const CniCall& call);

}  // namespace godwit::runtime
