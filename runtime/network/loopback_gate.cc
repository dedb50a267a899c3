#include "runtime/network/loopback_gate.h"

#include <netinet/in.h>
#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <utility>

#include "runtime/network/bpf_assembler.h"
#include "runtime/network/namespace.h"

namespace godwit::runtime {
namespace {

constexpr uint32_t kLoopback = 1;  // its index in every network namespace
constexpr const char* kLoopbackName = "lo";

size_t word_bytes() {
  // A mapping of an array map is whole pages (bpf(2), BPF_F_MMAPABLE).
  return static_cast<size_t>(::sysconf(_SC_PAGESIZE));
}

// IPv6 may put other headers in front of a segment, so there the exceptions are named.
Result<Fd> gate_program(int map) {
  Assembler code;
  const auto pass = code.label();
  const auto drop = code.label();
  const auto ipv4 = code.label();
  code.copy(kPacket, 1);
  code.load_state(kState, map);
  code.load(BPF_W, 1, kState, 0);
  code.jump_if(kJumpEqual, 1, 0, 0, pass);
  code.load(BPF_W, 1, kPacket, offsetof(__sk_buff, protocol));
  code.jump_if(kJumpEqual, 1, 0, htons(ETH_P_IP), ipv4);
  code.jump_if(kJumpNotEqual, 1, 0, htons(ETH_P_IPV6), pass);
  code.load_frame_byte(1, kPacket, kNextHeaderByte, pass);
  for (const int next : std::initializer_list<int>{IPPROTO_UDP, IPPROTO_ICMPV6, IPPROTO_FRAGMENT})
    code.jump_if(kJumpEqual, 1, 0, next, pass);
  code.jump(drop);
  code.place(ipv4);
  code.load_frame_byte(1, kPacket, kProtocolByte, pass);
  code.jump_if(kJumpNotEqual, 1, 0, IPPROTO_TCP, pass);
  code.place(drop);
  code.leave_with(kIngressDrop);
  code.place(pass);
  code.leave_with(kIngressNext);
  return code.load_program("godwit_lo");
}

}  // namespace

Result<LoopbackGate> LoopbackGate::prepare(const std::string& network_namespace, IngressMethod method) {
  GODWIT_ASSIGN(const Fd map, make_shared_value(sizeof(uint32_t)));
  GODWIT_ASSIGN(const Fd program, gate_program(map.get()));
  void* const memory = ::mmap(nullptr, word_bytes(), PROT_READ | PROT_WRITE, MAP_SHARED, map.get(), 0);
  if (memory == MAP_FAILED) return fail("map", "the loopback gate's state");
  LoopbackGate gate(static_cast<uint32_t*>(memory), {});
  GODWIT_TRY(run_in_network_namespace(network_namespace, [&]() -> Result<void> {
    GODWIT_ASSIGN(gate.filter_, IngressFilter::attach(program.get(), kLoopback, kLoopbackName, method));
    return {};
  }));
  return gate;
}

LoopbackGate::LoopbackGate(LoopbackGate&& other) noexcept
    : word_(std::exchange(other.word_, nullptr)), filter_(std::move(other.filter_)) {}

LoopbackGate::~LoopbackGate() {
  filter_.detach();
  if (word_ != nullptr) ::munmap(word_, word_bytes());
}

void LoopbackGate::shut() {
  std::atomic_ref(*word_).store(1);
}

void LoopbackGate::open() {
  std::atomic_ref(*word_).store(0);
}

void LoopbackGate::leave() {
  filter_.leave();
}

Result<void> remove_loopback_gate(const std::string& network_namespace) {
  return run_in_network_namespace(network_namespace,
                                  [] { return remove_ingress_filters(kLoopback, kLoopbackName); });
}

}  // namespace godwit::runtime
