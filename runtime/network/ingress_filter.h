// A BPF program that sees every frame at the ingress of an interface, for as long as an object of this
// process lives. When the process dies, however it dies, the program is off and frames flow as if it had
// never been there: the kernel sees to that, there is no guardian and no timer.
//
// Two ways of attaching, chosen by what the kernel has:
//  * tcx (Linux 6.6): the attachment is a descriptor, and ends with it.
//  * clsact and cls_bpf (traffic control, any older kernel): a filter stays until somebody deletes it. So the
//    filter is only a door: it jumps (a tail call) to the program in slot 0 of a program array, and lets the
//    frame pass if the slot is empty. The kernel empties a program array when the last descriptor of it is
//    closed, and we hold the only one. A killed process leaves a door with nothing behind it, at the price of
//    some nanoseconds a frame, until the next filter of ours takes its place or the interface goes.
//    The clsact qdisc stays: others may use it, and empty it does nothing.
//
// Whoever has CAP_NET_ADMIN in the network namespace of the interface can delete a cls_bpf filter (not a tcx
// one). A container that does so to its own interface harms nobody but itself.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

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

// Not thread-safe; may be destroyed on another thread, and in another network namespace, than it was made.
class IngressFilter {
 public:
  IngressFilter() = default;  // attached to nothing
  // In front of every other program of the interface, which is looked up in the network namespace of the
  // calling thread. One classic filter of ours per interface: a later one takes the place of an earlier.
  static Result<IngressFilter> attach(int program, uint32_t interface, const std::string& name,
                                      IngressMethod method = best_ingress_method());
  IngressFilter(IngressFilter&& other) noexcept = default;
  IngressFilter& operator=(IngressFilter&& other) noexcept;
  IngressFilter(const IngressFilter&) = delete;
  IngressFilter& operator=(const IngressFilter&) = delete;
  ~IngressFilter() { detach(); }
  // A frame that is in the program at this moment goes on there; none enters it any more.
  void detach();

 private:
  IngressFilter(Fd life, std::optional<Netlink> netlink, uint32_t interface)
      : life_(std::move(life)), netlink_(std::move(netlink)), interface_(interface) {}
  static Result<IngressFilter> attach_classic(int program, uint32_t interface, const std::string& name);

  Fd life_;                         // the tcx link, or the program array
  std::optional<Netlink> netlink_;  // classic: in the interface's network namespace
  uint32_t interface_ = 0;
};

}  // namespace godwit::runtime
