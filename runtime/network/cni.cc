#include "runtime/network/cni.h"

#include <net/if.h>

#include <nlohmann/json.hpp>

#include "base/command.h"
#include "base/printable.h"

namespace godwit::runtime {
namespace {

using nlohmann::json;

constexpr size_t kPluginOutputBytesMax = size_t{1} << 20;

std::string configuration(const CniCall& call) {
  json address = {{"address", call.address}};
  if (!call.gateway.empty()) address["gateway"] = call.gateway;
  json ipam = {{"type", "static"}, {"addresses", json::array({address})}};
  if (!call.gateway.empty()) {
    const bool ipv6 = call.gateway.find(':') != std::string::npos;
    ipam["routes"] = json::array({{{"dst", ipv6 ? "::/0" : "0.0.0.0/0"}, {"gw", call.gateway}}});
  }
  return json({{"cniVersion", "0.4.0"},
               {"name", "godwit"},
               {"type", "bridge"},
               {"bridge", call.bridge},
               {"isGateway", false},
               {"ipMasq", false},
               {"mtu", call.mtu},
               {"capabilities", {{"mac", true}}},
               {"runtimeConfig", {{"mac", call.mac}}},
               {"ipam", ipam}})
      .dump();
}

std::string text_of(const json& object, const char* key) {
  const auto found = object.find(key);
  return found != object.end() && found->is_string() ? found->get<std::string>() : std::string();
}

// What a plugin says went wrong, in one line: as the specification wants it on stdout, or as it can.
std::string complaint(const CommandOutcome& outcome) {
  constexpr size_t kLengthMax = 500;
  const json said = json::parse(outcome.output, nullptr, false);
  std::string text = said.is_object()         ? text_of(said, "msg") + " " + text_of(said, "details")
                     : outcome.errors.empty() ? outcome.output
                                              : outcome.errors;
  text = printable(text.substr(0, kLengthMax));
  text.erase(text.find_last_not_of(' ') + 1);
  if (text.empty()) text = "it ended with status " + std::to_string(outcome.exit_status) + " and no reason";
  return text;
}

Result<std::string> run_plugin(const CniCall& call, const std::string& operation) {
  Command command;
  command.arguments = {call.plugin_directory + "/bridge"};
  command.environment = {"CNI_COMMAND=" + operation,
                         "CNI_CONTAINERID=" + call.container_id,
                         "CNI_NETNS=" + call.network_namespace,
                         std::string("CNI_IFNAME=") + kContainerInterface,
                         "CNI_PATH=" + call.plugin_directory,
                         "CNI_ARGS=IgnoreUnknown=1",
                         "PATH=/usr/sbin:/usr/bin:/sbin:/bin"};
  command.input = configuration(call);
  command.output_bytes_max = kPluginOutputBytesMax;
  command.package = "the package containernetworking-plugins";
  GODWIT_ASSIGN(CommandOutcome outcome, run_command(command));
  const json said = json::parse(outcome.output, nullptr, false);
  const bool complained = said.is_object() && said.contains("code");
  if (outcome.exit_status != 0 || complained)
    return refuse("run the CNI plugin's " + operation, command.arguments[0], complaint(outcome));
  return std::move(outcome.output);
}

}  // namespace

Result<std::string> read_cni_result(const std::string& text, const CniCall& call) {
  const std::string plugin = call.plugin_directory + "/bridge";
  const json result = json::parse(text, nullptr, false);
  const auto interfaces = result.is_object() ? result.find("interfaces") : result.end();
  if (!result.is_object() || interfaces == result.end() || !interfaces->is_array())
    return refuse("understand the result of", plugin, "no list of interfaces in it");
  std::string host;
  bool inside = false;
  for (const json& entry : *interfaces) {
    if (!entry.is_object()) continue;
    const std::string name = text_of(entry, "name");
    if (text_of(entry, "sandbox") == call.network_namespace && name == kContainerInterface)
      inside = text_of(entry, "mac") == call.mac;
    else if (text_of(entry, "sandbox").empty() && name != call.bridge)
      host = name;
  }
  if (!inside)
    return refuse("understand the result of", plugin, "the interface does not have the MAC " + call.mac);
  if (host.empty() || host.size() >= IFNAMSIZ || host.find('/') != std::string::npos)
    return refuse("understand the result of", plugin, "it names no usable interface of the host");
  return host;
}

Result<std::string> cni_add(const CniCall& call) {
  GODWIT_ASSIGN(const std::string output, run_plugin(call, "ADD"));
  return read_cni_result(output, call);
}

Result<void> cni_del(const CniCall& call) {
  GODWIT_TRY(run_plugin(call, "DEL"));
  return {};
}

}  // namespace godwit::runtime
