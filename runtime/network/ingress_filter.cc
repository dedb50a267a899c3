#include "runtime/network/ingress_filter.h"

#include <arpa/inet.h>
#include <linux/pkt_cls.h>
#include <linux/pkt_sched.h>
#include <linux/rtnetlink.h>
#include <net/ethernet.h>
#include <sched.h>

#include <array>
#include <thread>

#include "runtime/network/bpf.h"

namespace godwit::runtime {
namespace {

// The first preference there is, and a number by which the filter is found again.
constexpr uint32_t kPreference = 1;
constexpr uint32_t kHandle = 0x60d;

// bpf-helpers(7), bpf_tail_call: if slot 0 is empty, execution goes on behind the call.
Result<Fd> load_door(int program_array) {
  const std::array<bpf_insn, 6> code = {
      // NOLINTNEXTLINE(misc-redundant-expression): the fields of a code are named even where they are zero
      bpf_insn{BPF_LD | BPF_DW | BPF_IMM, 2, BPF_PSEUDO_MAP_FD, 0, program_array},
      bpf_insn{0, 0, 0, 0, 0},
      bpf_insn{BPF_ALU64 | BPF_MOV | BPF_K, 3, 0, 0, 0},
      bpf_insn{BPF_JMP | BPF_CALL, 0, 0, 0, BPF_FUNC_tail_call},
      bpf_insn{BPF_ALU64 | BPF_MOV | BPF_K, 0, 0, 0, kIngressNext},
      bpf_insn{BPF_JMP | BPF_EXIT, 0, 0, 0, 0},
  };
  return load_program(code, "door");
}

tcmsg ingress_header(uint32_t interface) {
  tcmsg header{};
  header.tcm_family = AF_UNSPEC;
  header.tcm_ifindex = static_cast<int>(interface);
  header.tcm_parent = TC_H_MAKE(TC_H_CLSACT, TC_H_MIN_INGRESS);
  header.tcm_handle = kHandle;
  header.tcm_info = TC_H_MAKE(kPreference << 16, htons(ETH_P_ALL));
  return header;
}

Result<void> need_clsact(Netlink& netlink, uint32_t interface, const std::string& name) {
  tcmsg header{};
  header.tcm_family = AF_UNSPEC;
  header.tcm_ifindex = static_cast<int>(interface);
  header.tcm_parent = TC_H_CLSACT;
  header.tcm_handle = TC_H_MAKE(TC_H_CLSACT, 0);
  NetlinkMessage message(RTM_NEWQDISC, NLM_F_CREATE | NLM_F_EXCL);
  message.header(header).text(TCA_KIND, "clsact");
  auto made = netlink.request(std::move(message), "make the clsact qdisc of", name);
  if (made || made.error().code == EEXIST) return {};
  made.error().hint = "needs Linux 6.6 (tcx), or the modules sch_ingress and cls_bpf: modprobe sch_ingress";
  return made;
}

// Replaces what a killed process left.
Result<void> add_filter(Netlink& netlink, uint32_t interface, int program, const std::string& name) {
  NetlinkMessage message(RTM_NEWTFILTER, NLM_F_CREATE);
  message.header(ingress_header(interface))
      .text(TCA_KIND, "bpf")
      .open(TCA_OPTIONS | NLA_F_NESTED)
      .u32(TCA_BPF_FD, static_cast<uint32_t>(program))
      .text(TCA_BPF_NAME, "godwit")
      .u32(TCA_BPF_FLAGS, TCA_BPF_FLAG_ACT_DIRECT)
      .close();
  auto added = netlink.request(std::move(message), "attach a packet filter to", name);
  if (!added && added.error().hint.empty())
    added.error().hint =
        "needs Linux 6.6 (tcx), or the module cls_bpf and no foreign filter of preference 1 there";
  return added;
}

Result<void> delete_filter(Netlink& netlink, uint32_t interface) {
  NetlinkMessage message(RTM_DELTFILTER, 0);
  message.header(ingress_header(interface)).text(TCA_KIND, "bpf");
  return netlink.request(std::move(message), "detach the packet filter of",
                         "interface " + std::to_string(interface));
}

}  // namespace

IngressMethod best_ingress_method() {
  static const bool tcx = has_tcx();
  return tcx ? IngressMethod::kTcx : IngressMethod::kClassic;
}

Result<void> try_ingress_method(IngressMethod method) {
  constexpr uint32_t kLoopback = 1;  // its index in every network namespace
  Result<void> result;
  std::thread thread([&]() {
    result = [&]() -> Result<void> {
      if (::unshare(CLONE_NEWNET) != 0) return fail("make", "a network namespace");
      constexpr std::array<bpf_insn, 2> kPass = {bpf_insn{BPF_ALU64 | BPF_MOV | BPF_K, 0, 0, 0, kIngressNext},
                                                 bpf_insn{BPF_JMP | BPF_EXIT, 0, 0, 0, 0}};
      GODWIT_ASSIGN(const Fd program, load_program(kPass, "pass"));
      GODWIT_ASSIGN(const auto filter, IngressFilter::attach(program.get(), kLoopback, "lo", method));
      return {};
    }();
  });
  thread.join();
  return result;
}

Result<IngressFilter> IngressFilter::attach_classic(int program, uint32_t interface,
                                                    const std::string& name) {
  GODWIT_ASSIGN(Fd array, make_program_array(program));
  GODWIT_ASSIGN(const Fd door, load_door(array.get()));
  GODWIT_ASSIGN(Netlink netlink, Netlink::open());
  GODWIT_TRY(need_clsact(netlink, interface, name));
  GODWIT_TRY(add_filter(netlink, interface, door.get(), name));
  return IngressFilter(std::move(array), std::move(netlink), interface);
}

Result<IngressFilter> IngressFilter::attach(int program, uint32_t interface, const std::string& name,
                                            IngressMethod method) {
  if (method == IngressMethod::kClassic) return attach_classic(program, interface, name);
  GODWIT_ASSIGN(Fd link, link_tcx_ingress(program, interface, name));
  return IngressFilter(std::move(link), std::nullopt, interface);
}

IngressFilter& IngressFilter::operator=(IngressFilter&& other) noexcept {
  if (this == &other) return *this;
  detach();
  life_ = std::move(other.life_);
  netlink_ = std::move(other.netlink_);
  interface_ = other.interface_;
  return *this;
}

void IngressFilter::detach() {
  if (!life_.valid()) return;
  // It fails where the interface is gone, or somebody deleted the filter: then it is off all the same.
  if (netlink_) (void)delete_filter(*netlink_, interface_);
  life_.reset();
  netlink_.reset();
}

}  // namespace godwit::runtime
