#include "runtime/network/ingress_filter.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <linux/pkt_cls.h>
#include <linux/pkt_sched.h>
#include <linux/rtnetlink.h>
#include <net/ethernet.h>
#include <sched.h>

#include <array>
#include <thread>
#include <utility>
#include <vector>

#include "runtime/network/bpf.h"
#include "runtime/network/namespace.h"

namespace godwit::runtime {
namespace {

// The first preference there is, and a number by which the filter is found again.
constexpr uint32_t kPreference = 1;
constexpr uint32_t kHandle = 0x60d;

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

// Replaces what is left there.
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

Result<void> delete_filter(Netlink& netlink, uint32_t interface, const std::string& name) {
  NetlinkMessage message(RTM_DELTFILTER, 0);
  message.header(ingress_header(interface)).text(TCA_KIND, "bpf");
  auto deleted = netlink.request(std::move(message), "detach the packet filter of", name);
  if (deleted) return deleted;
  // No such filter; no clsact qdisc, or a foreign filter in its place; a kernel without traffic control.
  const int code = deleted.error().code;
  if (code == ENOENT || code == EINVAL || code == EOPNOTSUPP) return {};
  return deleted;
}

Result<void> remove_tcx(uint32_t interface, const std::string& name) {
  GODWIT_ASSIGN(const auto programs, find_tcx_ingress(kProgramPrefix, interface, name));
  for (const Fd& program : programs) {
    auto detached = detach_tcx_ingress(program.get(), interface, name);
    if (!detached && detached.error().code != ENOENT) return detached;
  }
  return {};
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
      GODWIT_ASSIGN(const Fd program, load_program(kPass, "godwit_pass"));
      GODWIT_ASSIGN(const auto filter, IngressFilter::attach(program.get(), kLoopback, "lo", method));
      return {};
    }();
  });
  thread.join();
  return result;
}

Result<IngressFilter> IngressFilter::attach_classic(int program, uint32_t interface,
                                                    const std::string& name) {
  GODWIT_ASSIGN(Netlink netlink, Netlink::open());
  GODWIT_TRY(need_clsact(netlink, interface, name));
  GODWIT_TRY(add_filter(netlink, interface, program, name));
  return IngressFilter(Fd(), Fd(), std::move(netlink), interface);
}

Result<IngressFilter> IngressFilter::attach_tcx(int program, uint32_t interface, const std::string& name) {
  GODWIT_ASSIGN(Fd kept, duplicate(program));
  GODWIT_ASSIGN(Fd network_namespace, open_file("/proc/thread-self/ns/net", O_RDONLY));
  GODWIT_TRY(remove_tcx(interface, name));
  GODWIT_TRY(attach_tcx_ingress(program, interface, name));
  return IngressFilter(std::move(kept), std::move(network_namespace), std::nullopt, interface);
}

Result<IngressFilter> IngressFilter::attach(int program, uint32_t interface, const std::string& name,
                                            IngressMethod method) {
  return method == IngressMethod::kClassic ? attach_classic(program, interface, name)
                                           : attach_tcx(program, interface, name);
}

IngressFilter& IngressFilter::operator=(IngressFilter&& other) noexcept {
  if (this == &other) return *this;
  detach();
  program_ = std::move(other.program_);
  network_namespace_ = std::move(other.network_namespace_);
  netlink_ = std::exchange(other.netlink_, std::nullopt);
  interface_ = other.interface_;
  return *this;
}

// It fails where the interface is gone, or somebody detached the program: then it is off all the same.
void IngressFilter::detach() {
  const std::string name = "interface " + std::to_string(interface_);
  if (netlink_) (void)delete_filter(*netlink_, interface_, name);
  if (program_.valid())
    (void)run_in_network_namespace(network_namespace_, name,
                                   [&] { return detach_tcx_ingress(program_.get(), interface_, name); });
  leave();
}

void IngressFilter::leave() {
  program_.reset();
  network_namespace_.reset();
  netlink_.reset();
}

Result<void> remove_ingress_filters(uint32_t interface, const std::string& name) {
  if (best_ingress_method() == IngressMethod::kTcx) {
    GODWIT_TRY(remove_tcx(interface, name));
  }
  GODWIT_ASSIGN(Netlink netlink, Netlink::open());
  return delete_filter(netlink, interface, name);
}

}  // namespace godwit::runtime
