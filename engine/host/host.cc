#include "engine/host/host.h"

#include <spdlog/spdlog.h>
#include <unistd.h>

#include "runtime/container/cgroup.h"

namespace godwit::engine {

Host::Host(KeeperOptions options)
    : options(std::move(options)),
      runc(runc_root(this->options.root), bundles_root(this->options.root), this->options.name),
      network(network_root(this->options.root), this->options.cni_plugins),
      store(this->options.root),
      sessions(this->options.root) {}

model::AgentSettings Host::settings() const {
  model::AgentSettings settings;
  settings.set_name(options.name);
  settings.set_root(options.root);
  settings.set_bridge(options.bridge);
  settings.set_cni_plugins(options.cni_plugins);
  settings.set_listen_address(options.listen);
  for (const std::string& address : options.advertised) settings.add_advertised(address);
  settings.set_fault(options.fault);
  settings.set_rdma(options.rdma);
  return settings;
}

runtime::NetworkSpec Host::network_spec(const model::ContainerRecord& record) const {
  return {.container_id = record.id(),
          .address = record.address(),
          .mac = record.mac(),
          .bridge = options.bridge,
          .gateway = record.gateway(),
          .mtu = 0};
}

// That runc fails, or has never heard of a container, is no evidence: the kernel knows what runs.
Result<pid_t> Host::find_process(const std::string& id) {
  constexpr int kTries = 5;
  constexpr unsigned kPauseUs = 200'000;
  for (int tried = 1;; ++tried) {
    auto pid = runc.init_pid(id);
    if (pid) return pid;
    const auto processes = runtime::processes_in_cgroup(runc.cgroup(id));
    if (processes) {
      if (const auto init = runtime::find_init(*processes)) return *init;
      if (pid.error().code == ESRCH) return pid;
    }
    if (tried == kTries) return pid.error().code == ESRCH ? std::unexpected(processes.error()) : pid;
    ::usleep(kPauseUs);
  }
}

Copy Host::observe(const std::string& id) const {
  const std::string cgroup = runc.cgroup(id);
  const auto processes = runtime::processes_in_cgroup(cgroup);
  if (!processes) return Copy::kUnknown;
  const auto frozen = runtime::is_frozen(cgroup);
  if (!frozen) return Copy::kUnknown;
  if (processes->empty()) return *frozen ? Copy::kGoneUnrun : Copy::kGone;
  return *frozen ? Copy::kHeld : Copy::kRuns;
}

void log_failure(const std::string& id, const Result<void>& result) {
  if (!result) spdlog::error("{}: {}", id, result.error().to_string());
}

}  // namespace godwit::engine
