#include "tools/godwitd/doctor.h"

#include <fmt/format.h>
#include <net/if.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <filesystem>
#include <sstream>
#include <thread>

#include "base/fd.h"
#include "engine/host_resources.h"
#include "runtime/container/command.h"
#include "runtime/kernel/features.h"
#include "runtime/memory/trackers.h"
#include "tools/common/units.h"

namespace godwit::tools {

using api::v1::DoctorResponse;
using api::v1::Finding;

namespace {

struct Want {
  const char* name;
  const char* needed_for;
  const char* how_to_get;
  bool required = true;
};

void add(DoctorResponse& response, const Want& want, bool present, const std::string& value) {
  Finding& finding = *response.add_findings();
  finding.set_name(want.name);
  finding.set_present(present);
  finding.set_required(want.required);
  finding.set_value(value);
  finding.set_needed_for(want.needed_for);
  if (!present) finding.set_how_to_get(want.how_to_get);
}

// "runc version 1.1.5+ds1" of `runc --version`; empty if it cannot be run.
std::string runc_version() {
  const auto outcome = runtime::run_command(
      {.arguments = {"runc", "--version"},
       .environment = {"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"},
       .descriptors = {},
       .output_fd = -1,
       .timeout_ms = 5000,
       .output_bytes_max = 65536});
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

void examine_programs(DoctorResponse& response, const std::string& cni_plugins) {
  const std::string runc = runc_version();
  add(response, {"runc", "running containers", "apt-get install runc"}, !runc.empty(), runc);
  std::string missing;
  for (const char* plugin : {"bridge", "static"})
    if (::access((cni_plugins + "/" + plugin).c_str(), X_OK) != 0) missing += fmt::format("{} ", plugin);
  add(response,
      {"CNI plugins", "networks of containers",
       "apt-get install containernetworking-plugins, or give their directory by --cni-plugins"},
      missing.empty(),
      missing.empty() ? cni_plugins : fmt::format("missing in {}: {}", cni_plugins, missing));
}

void examine_host_state(DoctorResponse& response, const std::string& bridge) {
  utsname system{};
  ::uname(&system);
  add(response, {"kernel", "everything", "", true}, true, system.release);
  const std::string mode = cgroup_mode();
  add(response,
      {"cgroups", "limits, and freezing in a fraction of a millisecond", "mount cgroup2 at /sys/fs/cgroup"},
      !mode.empty(), mode);
  add(response,
      {"bridge", "connecting containers to the network between the hosts",
       "ip link add godwit0 type bridge; ip link set godwit0 up; make the uplink its port"},
      ::if_nametoindex(bridge.c_str()) != 0, bridge);
  if (const auto available = engine::available_memory_bytes())
    add(response, {"free memory", "containers that arrive", "", true}, true, format_bytes(*available));
  add(response, {"processors", "", "", true}, true,
      fmt::format("{} x {}", std::thread::hardware_concurrency(), processor_model()));
  add(response, {"extended state", "taking containers from hosts with an equal or smaller one", "", true},
      true, fmt::format("{} bytes a thread", engine::extended_state_bytes()));
}

// What --tracker auto takes here, and which it could take.
void examine_trackers(DoctorResponse& response) {
  const auto choice = runtime::choose_tracker("auto", runtime::tracking_abilities());
  add(response, {"tracker", "finding written pages", "Linux 6.7 or later, or one with CONFIG_MEM_SOFT_DIRTY"},
      choice.has_value(),
      choice ? fmt::format("{}: {}", runtime::name_of(choice->kind), choice->why) : std::string());
}

}  // namespace

DoctorResponse examine_host(const std::string& name, const std::string& cni_plugins,
                            const std::string& bridge) {
  DoctorResponse response;
  response.set_host(name);
  examine_host_state(response, bridge);
  examine_programs(response, cni_plugins);
  examine_trackers(response);
  for (const runtime::Feature& feature : runtime::probe_features())
    add(response,
        {feature.name.c_str(), feature.needed_for.c_str(), feature.remedy.c_str(), feature.required},
        feature.present, "");
  return response;
}

}  // namespace godwit::tools
