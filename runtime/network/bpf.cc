#include "runtime/network/bpf.h"

#include <sys/syscall.h>
#include <unistd.h>

#include <cstring>

namespace godwit::runtime {
namespace {

// linux/bpf.h of Linux 6.6; older headers lack them.
constexpr uint32_t kAttachTcxIngress = 46;   // BPF_TCX_INGRESS
constexpr uint32_t kInFrontOfAll = 1U << 3;  // BPF_F_BEFORE without a relative program

Fd bpf(bpf_cmd command, bpf_attr& attributes) {
  return Fd(static_cast<int>(::syscall(SYS_bpf, command, &attributes, sizeof attributes)));
}

bpf_attr empty_attributes() {
  bpf_attr attributes;
  std::memset(&attributes, 0, sizeof attributes);
  return attributes;
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

Result<Fd> make_program_array(int program) {
  bpf_attr attributes = empty_attributes();
  attributes.map_type = BPF_MAP_TYPE_PROG_ARRAY;
  attributes.key_size = sizeof(uint32_t);
  attributes.value_size = sizeof(uint32_t);
  attributes.max_entries = 1;
  Fd array = bpf(BPF_MAP_CREATE, attributes);
  if (!array.valid()) return fail("make", "a BPF program array", errno, "needs CAP_BPF");
  const uint32_t slot = 0;
  const auto value = static_cast<uint32_t>(program);
  attributes = empty_attributes();
  attributes.map_fd = static_cast<uint32_t>(array.get());
  attributes.key = reinterpret_cast<uint64_t>(&slot);
  attributes.value = reinterpret_cast<uint64_t>(&value);
  if (::syscall(SYS_bpf, BPF_MAP_UPDATE_ELEM, &attributes, sizeof attributes) != 0)
    return fail("put a program into", "a BPF program array");
  return array;
}

bool has_tcx() {
  bpf_attr attributes = empty_attributes();
  attributes.query.target_fd = 1;  // target_ifindex in later headers: lo, which every network namespace has
  attributes.query.attach_type = kAttachTcxIngress;
  return ::syscall(SYS_bpf, BPF_PROG_QUERY, &attributes, sizeof attributes) == 0;
}

Result<Fd> link_tcx_ingress(int program, uint32_t interface, const std::string& name) {
  bpf_attr attributes = empty_attributes();
  attributes.link_create.prog_fd = static_cast<uint32_t>(program);
  attributes.link_create.target_ifindex = interface;
  attributes.link_create.attach_type = kAttachTcxIngress;
  attributes.link_create.flags = kInFrontOfAll;
  Fd link = bpf(BPF_LINK_CREATE, attributes);
  if (!link.valid())
    return fail("attach a packet filter to", name, errno,
                errno == EINVAL || errno == EOPNOTSUPP ? "needs tcx: Linux 6.6 with CONFIG_NET_XGRESS" : "");
  return link;
}

}  // namespace godwit::runtime
