#include "runtime/network/parking_programs.h"

#include <linux/if_ether.h>
#include <netinet/in.h>
#include <netinet/ip6.h>

#include <cstddef>
#include <cstring>

#include "runtime/network/bpf_assembler.h"
#include "runtime/network/ingress_filter.h"

namespace godwit::runtime {
namespace {

// Jumps to `newcomer` with a TCP segment that asks for a connection (SYN without ACK), to `other` with all
// else. The kernel's own TCP puts no extension header in front of such a segment.
void find_newcomers(Assembler& code, Assembler::Label newcomer, Assembler::Label other) {
  constexpr int32_t kFlagsByte = 13;
  constexpr int32_t kSyn = 0x02;
  constexpr int32_t kAck = 0x10;
  const auto ipv4 = code.label();
  const auto judge = code.label();
  code.load(BPF_W, 1, kPacket, offsetof(__sk_buff, protocol));
  code.jump_if(kJumpEqual, 1, 0, htons(ETH_P_IP), ipv4);
  code.jump_if(kJumpNotEqual, 1, 0, htons(ETH_P_IPV6), other);
  code.load_frame_byte(1, kPacket, kNextHeaderByte, other);
  code.jump_if(kJumpNotEqual, 1, 0, IPPROTO_TCP, other);
  code.load_frame_byte(1, kPacket, kNetworkHeader + static_cast<int32_t>(sizeof(ip6_hdr)) + kFlagsByte,
                       other);
  code.jump(judge);
  code.place(ipv4);
  code.load_frame_byte(1, kPacket, kProtocolByte, other);
  code.jump_if(kJumpNotEqual, 1, 0, IPPROTO_TCP, other);
  code.load_frame_byte(2, kPacket, kNetworkHeader, other);
  code.keep_bits(2, 0xf);
  code.shift_left(2, 2);
  code.add(2, kNetworkHeader + kFlagsByte);
  code.load_frame_byte(1, kPacket, std::nullopt, other);
  code.place(judge);
  code.keep_bits(1, kSyn | kAck);
  code.jump_if(kJumpEqual, 1, 0, kSyn, newcomer);
  code.jump(other);
}

Result<Fd> container_program(int map, const ParkInterfaces& interfaces) {
  Assembler code;
  const auto pass = code.label();
  const auto injected = code.label();
  const auto bounce = code.label();
  const auto counted = code.label();
  const auto draining = code.label();
  code.copy(kPacket, 1);
  code.load_state(kState, map);
  code.load(BPF_W, 1, kPacket, offsetof(__sk_buff, mark));
  code.jump_if(kJumpEqual, 1, 0, kInjectedMark, injected);
  code.load(BPF_W, 1, kState, offsetof(ParkState, mode));
  code.jump_if(kJumpEqual, 1, 0, static_cast<int32_t>(ParkMode::kOpen), pass);
  code.jump_if(kJumpEqual, 1, 0, static_cast<int32_t>(ParkMode::kParked), bounce);
  code.jump_if(kJumpEqual, 1, 0, static_cast<int32_t>(ParkMode::kIngressParked), bounce);
  code.jump_if(kJumpEqual, 1, 0, static_cast<int32_t>(ParkMode::kDraining), draining);
  find_newcomers(code, bounce, pass);
  code.place(draining);
  code.load(BPF_DW, 2, kState, offsetof(ParkState, parked));
  code.load(BPF_DW, 3, kState, offsetof(ParkState, released));
  code.jump_if(BPF_JMP | BPF_JLE | BPF_X, 2, 3, 0, pass);
  code.place(bounce);
  // A large frame leaves the tap as its segments.
  code.load(BPF_W, 1, kPacket, offsetof(__sk_buff, gso_segs));
  code.jump_if(kJumpNotEqual, 1, 0, 0, counted);
  code.set(1, 1);
  code.place(counted);
  code.atomic_add(kState, offsetof(ParkState, parked), 1);
  code.redirect(interfaces.container);
  code.place(injected);
  code.set(1, 0);
  code.store(BPF_W, kPacket, offsetof(__sk_buff, mark), 1);
  code.place(pass);
  code.leave_with(kIngressNext);
  return code.load_program("godwit_inside");
}

Result<Fd> host_program(int map, const ParkInterfaces& interfaces) {
  uint32_t mac_begin = 0;
  uint16_t mac_end = 0;
  std::memcpy(&mac_begin, interfaces.mac.data(), sizeof mac_begin);
  std::memcpy(&mac_end, interfaces.mac.data() + sizeof mac_begin, sizeof mac_end);
  constexpr size_t kSourceOffset = 6;
  Assembler code;
  const auto pass = code.label();
  const auto bounced = code.label();
  const auto keep_in = code.label();
  code.copy(kPacket, 1);
  code.load_state(kState, map);
  code.load(BPF_W, 1, kState, offsetof(ParkState, mode));
  code.jump_if(kJumpEqual, 1, 0, static_cast<int32_t>(ParkMode::kOpen), pass);
  code.load(BPF_W, 2, kPacket, offsetof(__sk_buff, data));
  code.load(BPF_W, 3, kPacket, offsetof(__sk_buff, data_end));
  code.copy(4, 2);
  code.add(4, 14);
  code.jump_if(BPF_JMP | BPF_JGT | BPF_X, 4, 3, 0, pass);
  code.load(BPF_W, 4, 2, kSourceOffset);
  code.load(BPF_H, 5, 2, kSourceOffset + sizeof mac_begin);
  code.jump_if(BPF_JMP32 | BPF_JNE | BPF_K, 4, 0, static_cast<int32_t>(mac_begin), bounced);
  code.jump_if(BPF_JMP32 | BPF_JNE | BPF_K, 5, 0, mac_end, bounced);
  code.load(BPF_W, 1, kState, offsetof(ParkState, mode));
  code.jump_if(kJumpEqual, 1, 0, static_cast<int32_t>(ParkMode::kParked), keep_in);
  code.load(BPF_W, 1, kState, offsetof(ParkState, sealed));
  code.jump_if(kJumpEqual, 1, 0, 0, pass);
  code.place(keep_in);
  code.set(1, 1);
  code.atomic_add(kState, offsetof(ParkState, dropped_own), 1);
  code.leave_with(kIngressDrop);
  code.place(bounced);
  code.redirect(interfaces.tap);
  code.place(pass);
  code.leave_with(kIngressNext);
  return code.load_program("godwit_outside");
}

// Straight into the container's namespace, in the same run of the kernel's receive path: when write(2) to the
// tap returns, the frame has been processed.
Result<Fd> tap_program(const ParkInterfaces& interfaces) {
  Assembler code;
  code.set(2, kInjectedMark);
  code.store(BPF_W, 1, offsetof(__sk_buff, mark), 2);
  code.redirect(interfaces.host, BPF_FUNC_redirect_peer);
  return code.load_program("godwit_tap");
}

}  // namespace

Result<ParkPrograms> load_park_programs(int state_map, const ParkInterfaces& interfaces) {
  ParkPrograms programs;
  GODWIT_ASSIGN(programs.container, container_program(state_map, interfaces));
  GODWIT_ASSIGN(programs.host, host_program(state_map, interfaces));
  GODWIT_ASSIGN(programs.tap, tap_program(interfaces));
  return programs;
}

}  // namespace godwit::runtime
