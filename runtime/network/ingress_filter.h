// A BPF program that sees every frame at the ingress of an interface.
//
// The interface itself holds the program: whoever dies, the program stays as it is, with the memory it
// shares, until it is detached or the interface goes. It is found again by the interface alone, by any
// process in any mount namespace. Nothing is pinned in a file system: a bpffs is a mount that may be missing
// or not be seen where a process runs, its pins are names that somebody has to delete, and a pin is no more
// than what the interface gives anyway. Nor is there a link or a program array in a descriptor, which end
// with their process.
//
// Two ways of attaching, chosen by what the kernel has:
//  * tcx (Linux 6.6), by BPF_PROG_ATTACH. Found again by the program's name, which begins with "godwit".
//  * clsact and cls_bpf (traffic control, any older kernel): a filter, found again by its preference and
//    handle. The clsact qdisc stays: others may use it, and empty it does nothing.
//
// Whoever has CAP_NET_ADMIN in the network namespace of the interface can delete a cls_bpf filter (a tcx one
// only with CAP_BPF on the host too). A container that does so to its own interface harms nobody but itself,
// and a frozen one cannot.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <utility>

#include "base/fd.h"
#include "base/result.h"
#include "runtime/network/netlink.h"

namespace godwit::runtime {

enum class IngressMethod { kTcx, kClassic };

// tcx where the running kernel has it. Asked once.
[[nodiscard]] IngressMethod best_ingress_method();
// Tries it on the loopback interface of a network namespace made for that; milliseconds. The error says what
// is missing.
[[nodiscard]] Result<void> try_ingress_method(IngressMethod method);

// Verdicts of a program (linux/bpf.h: enum tcx_action_base, which are linux/pkt_cls.h's too).
inline constexpr int kIngressNext = -1;
inline constexpr int kIngressDrop = 2;
// What the name of each of our programs begins with.
inline constexpr const char* kProgramPrefix = "godwit";

// Not thread-safe; may be destroyed on another thread, and in another network namespace, than it was made.
class IngressFilter {
 public:
  IngressFilter() = default;  // attached to nothing
  // In front of every other program of the interface, which is looked up in the network namespace of the
  // calling thread. One filter of ours per interface: a later one takes the place of an earlier. `program`
  // has a name that begins with kProgramPrefix.
  static Result<IngressFilter> attach(int program, uint32_t interface, const std::string& name,
                                      IngressMethod method = best_ingress_method());
  IngressFilter(IngressFilter&& other) noexcept { *this = std::move(other); }
  IngressFilter& operator=(IngressFilter&& other) noexcept;
  IngressFilter(const IngressFilter&) = delete;
  IngressFilter& operator=(const IngressFilter&) = delete;
  ~IngressFilter() { detach(); }
  // A frame that is in the program at this moment goes on there; none enters it any more.
  void detach();
  // The program stays at the interface, as if this process had died.
  void leave();

 private:
  IngressFilter(Fd program, Fd network_namespace, std::optional<Netlink> netlink, uint32_t interface)
      : program_(std::move(program)),
        network_namespace_(std::move(network_namespace)),
        netlink_(std::move(netlink)),
        interface_(interface) {}
  static Result<IngressFilter> attach_classic(int program, uint32_t interface, const std::string& name);
  static Result<IngressFilter> attach_tcx(int program, uint32_t interface, const std::string& name);

  // tcx: what is detached, and where.
  Fd program_;
  Fd network_namespace_;
  std::optional<Netlink> netlink_;  // classic: in the interface's network namespace
  uint32_t interface_ = 0;
};

// Detaches what left objects and dead processes have at an interface of the calling thread's network
// namespace, by either method. That there is nothing is success.
Result<void> remove_ingress_filters(uint32_t interface, const std::string& name);

}  // namespace godwit::runtime
