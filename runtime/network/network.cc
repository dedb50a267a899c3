#include "runtime/network/network.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <functional>
#include <nlohmann/json.hpp>

#include "base/identifier.h"
#include "runtime/network/address.h"
#include "runtime/network/bpf.h"
#include "runtime/network/cni.h"
#include "runtime/network/ingress_filter.h"
#include "runtime/network/namespace.h"
#include "runtime/network/netlink.h"

namespace godwit::runtime {
namespace {

using nlohmann::json;

std::string namespace_path(const std::string& directory, const std::string& id) {
  return directory + "/" + id;
}

std::string record_path(const std::string& directory, const std::string& id) {
  return directory + "/" + id + ".attachment";
}

// The same for the same container, so that what a killed attach() left is found again.
std::string scratch_bridge(const std::string& id) {
  return fmt::format("gws{:010x}", std::hash<std::string>{}(id)&0xffffffffff);
}

Result<CniCall> make_call(const NetworkSpec& spec, const std::string& directory, const std::string& plugins) {
  GODWIT_TRY(check_identifier("container id", spec.container_id));
  GODWIT_ASSIGN(const InterfaceAddress address, parse_cidr(spec.address));
  MacAddress mac = derive_mac(address);
  if (!spec.mac.empty()) {
    GODWIT_ASSIGN(mac, parse_mac(spec.mac));
  }
  if (!spec.gateway.empty()) {
    GODWIT_TRY(parse_cidr(spec.gateway + "/32"));
  }
  return CniCall{.plugin_directory = plugins,
                 .container_id = spec.container_id,
                 .network_namespace = namespace_path(directory, spec.container_id),
                 .bridge = scratch_bridge(spec.container_id),
                 .address = spec.address,
                 .gateway = spec.gateway,
                 .mac = format_mac(mac),
                 .mtu = spec.mtu};
}

// Moves the finished port from the scratch bridge to the real one. A port forwards from the moment on that it
// joins, so for that long a filter drops whatever the container's kernel sends by itself (neighbour
// discovery).
Result<void> move_port(const Attachment& attachment, bool held) {
  GODWIT_ASSIGN(Netlink netlink, Netlink::open());
  const std::string& port = attachment.host_interface;
  GODWIT_ASSIGN(const uint32_t index, interface_index(port));
  GODWIT_ASSIGN(const uint32_t bridge, interface_index(attachment.bridge));
  constexpr std::array<bpf_insn, 2> kDropAll = {
      bpf_insn{
          .code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = 0, .src_reg = 0, .off = 0, .imm = kIngressDrop},
      bpf_insn{.code = BPF_JMP | BPF_EXIT, .dst_reg = 0, .src_reg = 0, .off = 0, .imm = 0}};
  GODWIT_ASSIGN(const Fd program, load_program(kDropAll, "godwit_drop"));
  GODWIT_ASSIGN(const auto filter, IngressFilter::attach(program.get(), index, port));
  GODWIT_TRY(set_link_master(netlink, index, bridge, port));
  GODWIT_TRY(set_link_up(netlink, index, port));
  // Said to an open port too: a bridge that will not have it is refused now, not at the end of a migration.
  GODWIT_ASSIGN(Port bridge_port, Port::prepare(attachment));
  return held ? bridge_port.hold() : bridge_port.open();
}

Result<void> record(const std::string& path, const Attachment& attachment) {
  const json text = {{"network_namespace", attachment.network_namespace},
                     {"container_interface", attachment.container_interface},
                     {"host_interface", attachment.host_interface},
                     {"bridge", attachment.bridge},
                     {"address", attachment.address},
                     {"mac", attachment.mac}};
  return replace_file_durably(path, text.dump() + "\n");
}

}  // namespace

Network::Network(std::string directory, std::string plugin_directory)
    : directory_(std::move(directory)), plugin_directory_(std::move(plugin_directory)) {}

Result<Attachment> Network::attach(const NetworkSpec& spec, bool held) {
  GODWIT_ASSIGN(CniCall call, make_call(spec, directory_, plugin_directory_));
  if (call.mtu == 0) {
    GODWIT_ASSIGN(call.mtu, interface_mtu(spec.bridge));
  }
  if (::mkdir(directory_.c_str(), 0700) != 0 && errno != EEXIST)
    return fail("make the directory", directory_);
  GODWIT_TRY(make_network_namespace(call.network_namespace));
  auto attach = [&]() -> Result<Attachment> {
    GODWIT_ASSIGN(std::string host_interface, cni_add(call));
    Attachment attachment{.network_namespace = call.network_namespace,
                          .container_interface = kContainerInterface,
                          .host_interface = std::move(host_interface),
                          .bridge = spec.bridge,
                          .address = spec.address,
                          .mac = call.mac};
    GODWIT_TRY(move_port(attachment, held));
    GODWIT_ASSIGN(Netlink netlink, Netlink::open());
    GODWIT_TRY(delete_link(netlink, call.bridge));
    GODWIT_TRY(record(record_path(directory_, spec.container_id), attachment));
    return attachment;
  };
  auto attachment = attach();
  if (!attachment) {
    if (auto undone = detach(spec); !undone)
      attachment.error().hint += " (and could not be undone: " + undone.error().to_string() + ")";
  }
  return attachment;
}

Result<void> Network::detach(const NetworkSpec& spec) {
  GODWIT_ASSIGN(const CniCall call, make_call(spec, directory_, plugin_directory_));
  // Goes on after an error, so that as much as possible is removed; the first error is the answer.
  Result<void> result;
  const auto keep = [&](Result<void> step) {
    if (!step && result) result = std::move(step);
  };
  if (::access(call.network_namespace.c_str(), F_OK) == 0) {
    // A path that is no namespace (left by a killed attach()) has nothing in it that a plugin could remove.
    auto entered = run_in_network_namespace(call.network_namespace, [] { return Result<void>{}; });
    if (entered) keep(cni_del(call));
  }
  keep(remove_network_namespace(call.network_namespace));
  auto netlink = Netlink::open();
  if (!netlink)
    keep(std::unexpected(netlink.error()));
  else
    keep(delete_link(*netlink, call.bridge));
  const std::string path = record_path(directory_, spec.container_id);
  if (::unlink(path.c_str()) != 0 && errno != ENOENT) keep(fail("remove", path));
  return result;
}

Result<Attachment> Network::find(const std::string& container_id) const {
  GODWIT_TRY(check_identifier("container id", container_id));
  const std::string path = record_path(directory_, container_id);
  GODWIT_ASSIGN(const std::string text, read_file(path, size_t{64} << 10));
  const json fields = json::parse(text, nullptr, false);
  const auto field = [&](const char* key) {
    const auto found = fields.is_object() ? fields.find(key) : fields.end();
    return fields.is_object() && found != fields.end() && found->is_string() ? found->get<std::string>()
                                                                             : std::string();
  };
  Attachment attachment{.network_namespace = field("network_namespace"),
                        .container_interface = field("container_interface"),
                        .host_interface = field("host_interface"),
                        .bridge = field("bridge"),
                        .address = field("address"),
                        .mac = field("mac")};
  if (attachment.network_namespace.empty() || attachment.host_interface.empty() || attachment.mac.empty())
    return refuse("read the attachment", path, "the record is damaged: detach and attach the container");
  return attachment;
}

}  // namespace godwit::runtime
