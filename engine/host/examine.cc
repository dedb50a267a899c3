#include "engine/host/examine.h"

#include <fmt/format.h>
#include <linux/capability.h>
#include <net/if.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <filesystem>
#include <sstream>
#include <thread>

#include "base/command.h"
#include "base/fd.h"
#include "base/units.h"
#include "engine/session/host_resources.h"
#include "runtime/kernel/features.h"
#include "runtime/memory/trackers.h"
#include "runtime/network/ingress_filter.h"
#include "transport/rdma/device.h"

namespace godwit::engine {

namespace {

// Of a link with four streams, and what goes with it.
constexpr rlim_t kLinkMemory = rlim_t{64} << 20;

struct Want {
  const char* name;
  const char* needed_for;
  const char* how_to_get;
  bool required = true;
};

void add(std::vector<Finding>& findings, const Want& want, bool present, const std::string& value) {
  findings.push_back({.name = want.name,
                      .present = present,
                      .required = want.required,
                      .value = value,
                      .needed_for = want.needed_for,
                      .how_to_get = present ? "" : want.how_to_get});
}

// "runc version 1.1.5+ds1" of `runc --version`; empty if it cannot be run.
std::string runc_version() {
  Command command;
  command.arguments = {"runc", "--version"};
  command.environment = {"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"};
  command.timeout_ms = 5000;
  command.output_bytes_max = 65536;
  const auto outcome = run_command(command);
  if (!outcome || outcome->exit_status != 0) return {};
  std::string line = outcome->output.substr(0, outcome->output.find('\n'));
  const size_t last_word = line.rfind(' ');
  return last_word == std::string::npos ? line : line.substr(last_word + 1);
}

// "v2", "hybrid" (v1 controllers beside a v2 tree) or "v1".
std::string cgroup_mode() {
  std::error_code error;
  if (std::filesystem::exists("/sys/fs/cgroup/cgroup.controllers", error)) return "v2";
  if (std::filesystem::exists("/sys/fs/cgroup/unified/cgroup.procs", error)) return "hybrid";
  if (std::filesystem::exists("/sys/fs/cgroup/freezer", error)) return "v1";
  return {};
}

// The value of the first line "KEY : VALUE" of /proc/cpuinfo.
std::string processor_model() {
  std::istringstream lines(read_file("/proc/cpuinfo").value_or(""));
  for (std::string line; std::getline(lines, line);)
    if (line.starts_with("model name") && line.find(": ") != std::string::npos)
      return line.substr(line.find(": ") + 2);
  return "unknown";
}

void examine_programs(std::vector<Finding>& findings, const std::string& cni_plugins) {
  const std::string runc = runc_version();
  add(findings, {"runc", "running containers", "apt-get install runc"}, !runc.empty(), runc);
  std::string missing;
  for (const char* plugin : {"bridge", "static"})
    if (::access((cni_plugins + "/" + plugin).c_str(), X_OK) != 0) missing += fmt::format("{} ", plugin);
  add(findings,
      {"CNI plugins", "networks of containers",
       "apt-get install containernetworking-plugins, or give their directory by --cni-plugins"},
      missing.empty(),
      missing.empty() ? cni_plugins : fmt::format("missing in {}: {}", cni_plugins, missing));
}

// "rxe0 (Ethernet, on eth0), mlx5_0 (InfiniBand, down)".
std::string describe_devices(const std::vector<transport::RdmaDevice>& devices) {
  std::string text;
  for (const transport::RdmaDevice& device : devices)
    text += fmt::format("{}{} ({}{}{})", text.empty() ? "" : ", ", device.name, device.link_layer,
                        device.interface.empty() ? "" : ", on " + device.interface,
                        device.usable   ? ""
                        : device.active ? ", without WRITE WITH IMMEDIATE"
                                        : ", down");
  return text;
}

void examine_rdma(std::vector<Finding>& findings) {
  const std::vector<transport::RdmaDevice> devices = transport::list_rdma_devices();
  const auto usable = transport::probe_rdma();
  const std::string missing = usable ? "" : usable.error().to_string();
  const char* const how = devices.empty()
                              ? "an adapter with RoCE or InfiniBand and its driver; or in software, on any "
                                "interface of the initial network namespace: modprobe rdma_rxe; modprobe "
                                "rdma_ucm; rdma link add rxe0 type rxe netdev INTERFACE"
                              : missing.c_str();
  add(findings, {"RDMA", "pages without the processor's help (--transport rdma)", how, false},
      usable.has_value(), describe_devices(devices));
  rlimit limit{};
  ::getrlimit(RLIMIT_MEMLOCK, &limit);
  // Capabilities are the agent's own: it runs as root, but perhaps not with all of them.
  const bool may_lock = limit.rlim_cur >= kLinkMemory || ::prctl(PR_CAPBSET_READ, CAP_IPC_LOCK) == 1;
  add(findings,
      {"lockable memory", "the buffers of an RDMA link",
       "ulimit -l unlimited, or LimitMEMLOCK=infinity in the agent's unit", false},
      may_lock, limit.rlim_cur == RLIM_INFINITY ? "unlimited" : format_bytes(limit.rlim_cur));
}

void examine_host_state(std::vector<Finding>& findings, const std::string& bridge) {
  utsname system{};
  ::uname(&system);
  add(findings, {"kernel", "everything", "", true}, true, system.release);
  const std::string mode = cgroup_mode();
  add(findings,
      {"cgroups", "limits, and freezing in a fraction of a millisecond", "mount cgroup2 at /sys/fs/cgroup"},
      !mode.empty(), mode);
  add(findings,
      {"bridge", "connecting containers to the network between the hosts",
       "ip link add godwit0 type bridge; ip link set godwit0 up; make the uplink its port"},
      ::if_nametoindex(bridge.c_str()) != 0, bridge);
  if (const auto available = available_memory_bytes())
    add(findings, {"free memory", "containers that arrive", "", true}, true, format_bytes(*available));
  add(findings, {"processors", "", "", true}, true,
      fmt::format("{} x {}", std::thread::hardware_concurrency(), processor_model()));
  add(findings, {"extended state", "taking containers from hosts with an equal or smaller one", "", true},
      true, fmt::format("{} bytes a thread", extended_state_bytes()));
}

// By attaching one: what is missing may be a module that is loaded only then.
void examine_packet_filters(std::vector<Finding>& findings) {
  using runtime::IngressMethod;
  const IngressMethod method = runtime::best_ingress_method();
  const auto tried = runtime::try_ingress_method(method);
  const char* const name = method == IngressMethod::kTcx ? "tcx" : "clsact and cls_bpf";
  add(findings,
      {"packet filters", "parking packets during the cutover, attaching networks",
       "Linux 6.6 or later (tcx), or the modules sch_ingress and cls_bpf; CAP_BPF and CAP_NET_ADMIN"},
      tried.has_value(), tried ? name : tried.error().to_string());
}

// What --tracker auto takes here, and which it could take.
void examine_trackers(std::vector<Finding>& findings) {
  const auto choice = runtime::choose_tracker("auto", runtime::tracking_abilities());
  add(findings, {"tracker", "finding written pages", "Linux 6.7 or later, or one with CONFIG_MEM_SOFT_DIRTY"},
      choice.has_value(),
      choice ? fmt::format("{}: {}", runtime::name_of(choice->kind), choice->why) : std::string());
}

}  // namespace

std::vector<Finding> examine_host(const std::string& cni_plugins, const std::string& bridge) {
  std::vector<Finding> findings;
  examine_host_state(findings, bridge);
  examine_programs(findings, cni_plugins);
  examine_packet_filters(findings);
  examine_rdma(findings);
  examine_trackers(findings);
  for (const runtime::Feature& feature : runtime::probe_features())
    add(findings,
        {feature.name.c_str(), feature.needed_for.c_str(), feature.remedy.c_str(), feature.required},
        feature.present, "");
  return findings;
}

}  // namespace godwit::engine
