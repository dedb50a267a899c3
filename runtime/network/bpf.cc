#include "runtime/network/bpf.h"

#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <utility>

namespace godwit::runtime {
namespace {

// linux/bpf.h of Linux 6.6; older headers lack them.
constexpr uint32_t kAttachTcxIngress = 46;   // BPF_TCX_INGRESS
constexpr uint32_t kInFrontOfAll = 1U << 3;  // BPF_F_BEFORE without a relative program
constexpr size_t kTcxProgramsMax = 64;       // BPF_MPROG_MAX

Fd bpf(bpf_cmd command, bpf_attr& attributes) {
  return Fd(static_cast<int>(::syscall(SYS_bpf, command, &attributes, sizeof attributes)));
}

bpf_attr empty_attributes() {
  bpf_attr attributes;
  std::memset(&attributes, 0, sizeof attributes);
  return attributes;
}

bpf_attr tcx_attributes(int program, uint32_t interface) {
  bpf_attr attributes = empty_attributes();
  attributes.target_fd = interface;  // target_ifindex in later headers
  attributes.attach_bpf_fd = static_cast<uint32_t>(program);
  attributes.attach_type = kAttachTcxIngress;
  return attributes;
}

Result<std::string> name_of(int program) {
  bpf_prog_info info{};
  bpf_attr attributes = empty_attributes();
  attributes.info.bpf_fd = static_cast<uint32_t>(program);
  attributes.info.info_len = sizeof info;
  attributes.info.info = reinterpret_cast<uint64_t>(&info);
  if (::syscall(SYS_bpf, BPF_OBJ_GET_INFO_BY_FD, &attributes, sizeof attributes) != 0)
    return fail("read the name of", "a BPF program");
  return std::string(info.name, ::strnlen(info.name, sizeof info.name));
}

}  // namespace

Result<Fd> make_shared_value(uint32_t bytes) {
  bpf_attr attributes = empty_attributes();
  attributes.map_type = BPF_MAP_TYPE_ARRAY;
  attributes.key_size = sizeof(uint32_t);
  attributes.value_size = bytes;
  attributes.max_entries = 1;
  attributes.map_flags = BPF_F_MMAPABLE;
  Fd map = bpf(BPF_MAP_CREATE, attributes);
  if (!map.valid()) return fail("make", "a BPF array", errno, "needs CAP_BPF and Linux 5.5");
  return map;
}

Result<Fd> load_program(std::span<const bpf_insn> instructions, const std::string& name) {
  std::string log(16384, '\0');
  bpf_attr attributes = empty_attributes();
  attributes.prog_type = BPF_PROG_TYPE_SCHED_CLS;
  attributes.insns = reinterpret_cast<uint64_t>(instructions.data());
  attributes.insn_cnt = static_cast<uint32_t>(instructions.size());
  attributes.license = reinterpret_cast<uint64_t>("Apache-2.0");
  std::memcpy(attributes.prog_name, name.data(), std::min(name.size(), sizeof attributes.prog_name - 1));
  Fd program = bpf(BPF_PROG_LOAD, attributes);
  if (program.valid()) return program;
  const int code = errno;
  attributes.log_level = 1;
  attributes.log_buf = reinterpret_cast<uint64_t>(log.data());
  attributes.log_size = static_cast<uint32_t>(log.size());
  program = bpf(BPF_PROG_LOAD, attributes);
  if (program.valid()) return program;
  log.resize(std::strlen(log.c_str()));
  return fail("load the BPF program", name, code, log.empty() ? "needs CAP_BPF and CAP_NET_ADMIN" : log);
}

bool has_tcx() {
  bpf_attr attributes = empty_attributes();
  attributes.query.target_fd = 1;  // target_ifindex in later headers: lo, which every network namespace has
  attributes.query.attach_type = kAttachTcxIngress;
  return ::syscall(SYS_bpf, BPF_PROG_QUERY, &attributes, sizeof attributes) == 0;
}

Result<void> attach_tcx_ingress(int program, uint32_t interface, const std::string& name) {
  bpf_attr attributes = tcx_attributes(program, interface);
  attributes.attach_flags = kInFrontOfAll;
  if (::syscall(SYS_bpf, BPF_PROG_ATTACH, &attributes, sizeof attributes) != 0)
    return fail("attach a packet filter to", name, errno,
                errno == EINVAL || errno == EOPNOTSUPP ? "needs tcx: Linux 6.6 with CONFIG_NET_XGRESS" : "");
  return {};
}

Result<void> detach_tcx_ingress(int program, uint32_t interface, const std::string& name) {
  bpf_attr attributes = tcx_attributes(program, interface);
  if (::syscall(SYS_bpf, BPF_PROG_DETACH, &attributes, sizeof attributes) != 0)
    return fail("detach the packet filter of", name);
  return {};
}

Result<std::vector<Fd>> find_tcx_ingress(std::string_view prefix, uint32_t interface,
                                         const std::string& name) {
  std::array<uint32_t, kTcxProgramsMax> ids{};
  bpf_attr attributes = empty_attributes();
  attributes.query.target_fd = interface;
  attributes.query.attach_type = kAttachTcxIngress;
  attributes.query.prog_ids = reinterpret_cast<uint64_t>(ids.data());
  attributes.query.prog_cnt = ids.size();
  if (::syscall(SYS_bpf, BPF_PROG_QUERY, &attributes, sizeof attributes) != 0)
    return fail("list the packet filters of", name);
  std::vector<Fd> found;
  for (const uint32_t id : std::span(ids).first(std::min<size_t>(attributes.query.prog_cnt, ids.size()))) {
    bpf_attr wanted = empty_attributes();
    wanted.prog_id = id;
    Fd program = bpf(BPF_PROG_GET_FD_BY_ID, wanted);
    if (!program.valid() && errno == ENOENT) continue;  // gone meanwhile
    if (!program.valid()) return fail("open a packet filter of", name);
    GODWIT_ASSIGN(const std::string program_name, name_of(program.get()));
    if (program_name.starts_with(prefix)) found.push_back(std::move(program));
  }
  return found;
}

}  // namespace godwit::runtime
