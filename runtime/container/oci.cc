#include "runtime/container/oci.h"

#include <linux/capability.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "base/fd.h"
#include "base/identifier.h"
#include "runtime/container/cgroup.h"

namespace godwit::runtime {
namespace {

using Json = nlohmann::ordered_json;

constexpr size_t kConfigBytesMax = size_t{1} << 20;
constexpr uint64_t kMemoryBytesMin = uint64_t{4} << 20;
constexpr uint32_t kCpuMillisMin = 10;  // the kernel's smallest quota is 1 ms of a period
constexpr size_t kNestingMax = 64;

// The parser recurses, so depth is bounded before it sees the text.
bool nests_too_deep(const std::string& text) {
  size_t depth = 0;
  bool in_string = false;
  for (size_t i = 0; i < text.size(); ++i) {
    if (in_string) {
      if (text[i] == '\\')
        ++i;
      else if (text[i] == '"')
        in_string = false;
    } else if (text[i] == '"') {
      in_string = true;
    } else if (text[i] == '{' || text[i] == '[') {
      if (++depth > kNestingMax) return true;
    } else if ((text[i] == '}' || text[i] == ']') && depth > 0) {
      --depth;
    }
  }
  return false;
}

Result<Json> parse(const std::string& text, const std::string& name) {
  if (nests_too_deep(text)) return refuse("read", name, "it nests too deep");
  Json json = Json::parse(text, nullptr, false);
  if (!json.is_object()) return refuse("read", name, "it is not a JSON object");
  return json;
}

// The member if it is there and of the type; a null pointer otherwise.
const Json* member(const Json& object, const char* key, Json::value_t type) {
  if (!object.is_object()) return nullptr;
  const auto found = object.find(key);
  return found != object.end() && found->type() == type ? &*found : nullptr;
}

std::string string_of(const Json& object, const char* key) {
  const Json* found = member(object, key, Json::value_t::string);
  return found == nullptr ? std::string() : found->get<std::string>();
}

// Objects that later steps write into: there, and objects.
Result<void> ensure_object(Json& parent, const char* key, const std::string& name) {
  Json& child = parent[key];
  if (child.is_null()) child = Json::object();
  if (!child.is_object()) return refuse("use", name, "'" + std::string(key) + "' is not an object");
  return {};
}

Result<void> check_process(const Json& config, const std::string& name) {
  const Json* process = member(config, "process", Json::value_t::object);
  if (process == nullptr) return refuse("use", name, "'process' is missing");
  const Json* arguments = member(*process, "args", Json::value_t::array);
  const bool fit = arguments != nullptr && !arguments->empty() &&
                   std::ranges::all_of(*arguments, [](const Json& item) { return item.is_string(); });
  if (!fit) return refuse("use", name, "'process.args' does not name a program");
  if (process->value("terminal", Json(false)) != Json(false))
    return refuse("use", name, "set process.terminal to false: a container that moves has no terminal");
  const Json* linux_part = member(config, "linux", Json::value_t::object);
  if (linux_part == nullptr) return {};
  const std::string propagation = string_of(*linux_part, "rootfsPropagation");
  if (propagation.ends_with("shared"))
    return refuse("use", name,
                  "linux.rootfsPropagation '" + propagation + "' would let its mounts reach the host");
  return {};
}

// Namespaces: what is missing is added, what is somebody else's is refused.
Result<void> fill_namespaces(Json& config, const std::string& network, const std::string& name) {
  Json& list = config["linux"]["namespaces"];
  if (list.is_null()) list = Json::array();
  if (!list.is_array()) return refuse("use", name, "'linux.namespaces' is not a list");
  Json result = Json::array();
  for (const Json& entry : list) {
    const std::string type = string_of(entry, "type");
    if (type == "user")
      return refuse("use", name, "remove the user namespace: containers with one cannot be moved");
    if (type == "network") continue;
    if (!string_of(entry, "path").empty())
      return refuse("use", name,
                    "remove 'path' of the " + type + " namespace: a container that moves shares none");
    result.push_back(Json{{"type", type}});
  }
  for (const char* type : {"pid", "mount", "ipc", "uts", "cgroup"}) {
    const bool there = std::ranges::any_of(result, [&](const Json& entry) { return entry["type"] == type; });
    if (!there) result.push_back(Json{{"type", type}});
  }
  Json own{{"type", "network"}};
  if (!network.empty()) own["path"] = network;
  result.push_back(own);
  list = result;
  return {};
}

// Paths that are relative to the user's bundle must stay so when runc sees another one.
Result<void> anchor_paths(Json& config, const std::filesystem::path& bundle, const std::string& name) {
  std::string rootfs = string_of(config.value("root", Json()), "path");
  if (rootfs.empty()) return refuse("use", name, "'root.path' is missing");
  rootfs = (bundle / rootfs).lexically_normal();
  struct stat info {};
  if (::stat(rootfs.c_str(), &info) != 0) return fail("use the rootfs", rootfs);
  if (!S_ISDIR(info.st_mode)) return fail("use the rootfs", rootfs, ENOTDIR);
  config["root"]["path"] = rootfs;
  const auto mounts = config.find("mounts");
  if (mounts == config.end()) return {};
  if (!mounts->is_array()) return refuse("use", name, "'mounts' is not a list");
  for (Json& mount : *mounts) {
    if (!mount.is_object()) return refuse("use", name, "a mount is not an object");
    const Json* options = member(mount, "options", Json::value_t::array);
    const bool bind = string_of(mount, "type") == "bind" ||
                      (options != nullptr && std::ranges::any_of(*options, [](const Json& option) {
                         return option == "bind" || option == "rbind";
                       }));
    const std::string source = string_of(mount, "source");
    if (bind && !source.starts_with('/')) mount["source"] = (bundle / source).lexically_normal().string();
  }
  return {};
}

Result<void> set_limits(Json& config, const ContainerLimits& limits, const std::string& name) {
  GODWIT_TRY(ensure_object(config["linux"], "resources", name));
  Json& resources = config["linux"]["resources"];
  GODWIT_TRY(ensure_object(resources, "memory", name));
  GODWIT_TRY(ensure_object(resources, "cpu", name));
  if (limits.memory_bytes != 0) {
    if (limits.memory_bytes < kMemoryBytesMin || limits.memory_bytes > INT64_MAX)
      return refuse("limit the memory of", name,
                    std::to_string(limits.memory_bytes) + " bytes; at least 4 MiB");
    resources["memory"]["limit"] = limits.memory_bytes;
    // Memory and swap together: equal means no swap.
    resources["memory"]["swap"] = limits.memory_bytes;
  }
  if (limits.cpu_millis != 0) {
    if (limits.cpu_millis < kCpuMillisMin)
      return refuse("limit the cpu of", name, "less than 0.01 processors");
    resources["cpu"]["quota"] = uint64_t{limits.cpu_millis} * kCpuPeriodUs / 1000;
    resources["cpu"]["period"] = kCpuPeriodUs;
  }
  return {};
}

Json capabilities(uint64_t wanted) {
  // In the order of linux/capability.h, to CAP_CHECKPOINT_RESTORE.
  static constexpr std::array kNames = {"CHOWN",
                                        "DAC_OVERRIDE",
                                        "DAC_READ_SEARCH",
                                        "FOWNER",
                                        "FSETID",
                                        "KILL",
                                        "SETGID",
                                        "SETUID",
                                        "SETPCAP",
                                        "LINUX_IMMUTABLE",
                                        "NET_BIND_SERVICE",
                                        "NET_BROADCAST",
                                        "NET_ADMIN",
                                        "NET_RAW",
                                        "IPC_LOCK",
                                        "IPC_OWNER",
                                        "SYS_MODULE",
                                        "SYS_RAWIO",
                                        "SYS_CHROOT",
                                        "SYS_PTRACE",
                                        "SYS_PACCT",
                                        "SYS_ADMIN",
                                        "SYS_BOOT",
                                        "SYS_NICE",
                                        "SYS_RESOURCE",
                                        "SYS_TIME",
                                        "SYS_TTY_CONFIG",
                                        "MKNOD",
                                        "LEASE",
                                        "AUDIT_WRITE",
                                        "AUDIT_CONTROL",
                                        "SETFCAP",
                                        "MAC_OVERRIDE",
                                        "MAC_ADMIN",
                                        "SYSLOG",
                                        "WAKE_ALARM",
                                        "BLOCK_SUSPEND",
                                        "AUDIT_READ",
                                        "PERFMON",
                                        "BPF",
                                        "CHECKPOINT_RESTORE"};
  Json names = Json::array();
  for (size_t i = 0; i < kNames.size(); ++i)
    if ((wanted >> i & 1) != 0) names.push_back(std::string("CAP_") + kNames[i]);
  return Json{{"bounding", names},
              {"effective", names},
              {"inheritable", names},
              {"permitted", names},
              {"ambient", names}};
}

// runc's spelling of the same: members capitalised.
Json state_capabilities(const Json& process) {
  const Json* sets = member(process, "capabilities", Json::value_t::object);
  if (sets == nullptr) return nullptr;
  Json result;
  for (const auto& [own, theirs] : {std::pair{"bounding", "Bounding"},
                                    {"effective", "Effective"},
                                    {"inheritable", "Inheritable"},
                                    {"permitted", "Permitted"},
                                    {"ambient", "Ambient"}})
    result[theirs] = sets->contains(own) ? (*sets)[own] : Json();
  return result;
}

}  // namespace

Result<std::string> container_config(const ContainerSpec& spec, const std::string& cgroups_path) {
  const std::string name = spec.bundle + "/config.json";
  GODWIT_ASSIGN(const std::string text, read_file(name, kConfigBytesMax));
  GODWIT_ASSIGN(Json config, parse(text, name));
  GODWIT_TRY(check_process(config, name));
  GODWIT_TRY(ensure_object(config, "root", name));
  GODWIT_TRY(ensure_object(config, "linux", name));
  std::error_code code;
  const std::filesystem::path bundle = std::filesystem::absolute(spec.bundle, code);
  if (code) return fail("find", spec.bundle, code.value());
  GODWIT_TRY(anchor_paths(config, bundle, name));
  GODWIT_TRY(fill_namespaces(config, spec.network_namespace, name));
  GODWIT_TRY(set_limits(config, spec.limits, name));
  const std::string hostname = spec.hostname.empty() ? spec.id : spec.hostname;
  GODWIT_TRY(check_identifier("hostname", hostname));
  config["hostname"] = hostname;
  config["process"]["terminal"] = false;
  config["linux"]["cgroupsPath"] = cgroups_path;
  return config.dump(2, ' ', false, Json::error_handler_t::replace);
}

Result<Privileges> own_privileges() {
  Privileges privileges;
  __user_cap_header_struct header{.version = _LINUX_CAPABILITY_VERSION_3, .pid = 0};
  std::array<__user_cap_data_struct, 2> sets{};
  if (::syscall(SYS_capget, &header, sets.data()) != 0) return fail("read", "our own capabilities");
  const uint64_t permitted = sets[0].permitted | uint64_t{sets[1].permitted} << 32;
  for (int i = 0; i < 64; ++i)
    if ((permitted >> i & 1) != 0 && ::prctl(PR_CAPBSET_READ, i, 0, 0, 0) == 1)
      privileges.capabilities |= uint64_t{1} << i;
  // getrlimit(2): without CAP_SYS_RESOURCE hard limits only go down.
  rlimit files{};
  if (::getrlimit(RLIMIT_NOFILE, &files) != 0) return fail("read", "our own RLIMIT_NOFILE");
  privileges.open_files_max = files.rlim_max;
  if ((privileges.capabilities >> CAP_SYS_RESOURCE & 1) != 0) {
    GODWIT_ASSIGN(privileges.open_files_max, cgroup_number("/proc/sys/fs/nr_open"));
  }
  return privileges;
}

Result<std::string> placeholder_config(const std::string& container_config, const std::string& image_path,
                                       const Privileges& privileges) {
  GODWIT_ASSIGN(Json config, parse(container_config, "the container's config.json"));
  Json& process = config["process"];
  const uint64_t files_max = privileges.open_files_max;
  process["args"] = Json::array({image_path});
  process["env"] = Json::array();
  process["cwd"] = "/";
  process["user"] = Json{{"uid", 0}, {"gid", 0}};
  process["capabilities"] = capabilities(privileges.capabilities);
  process["rlimits"] =
      Json::array({Json{{"type", "RLIMIT_NOFILE"}, {"hard", files_max}, {"soft", files_max}}});
  process.erase("apparmorProfile");
  process.erase("selinuxLabel");
  return config.dump(2, ' ', false, Json::error_handler_t::replace);
}

Result<std::string> state_with_own_process(const std::string& state, const std::string& container_config) {
  GODWIT_ASSIGN(Json record, parse(state, "runc's state.json"));
  GODWIT_ASSIGN(const Json own, parse(container_config, "the container's config.json"));
  const Json* process = member(own, "process", Json::value_t::object);
  const auto config = record.find("config");
  // runc takes resource limits from config.json only. A runc that keeps its state differently is refused
  // rather than silently left privileged.
  const bool known = process != nullptr && config != record.end() && config->is_object() &&
                     config->contains("capabilities") && config->value("rlimits", Json()).is_null();
  if (!known)
    return refuse("adjust", "runc's state.json", "this version of runc lays it out in an unknown way");
  (*config)["capabilities"] = state_capabilities(*process);
  for (const auto& [theirs, ours] :
       {std::pair{"apparmor_profile", "apparmorProfile"}, {"process_label", "selinuxLabel"}}) {
    const std::string value = string_of(*process, ours);
    if (!value.empty()) (*config)[theirs] = value;
  }
  return record.dump();
}

}  // namespace godwit::runtime
