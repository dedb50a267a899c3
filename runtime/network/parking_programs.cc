#include "runtime/network/parking_programs.h"

#include <cstddef>
#include <cstring>
#include <string>
#include <vector>

#include "runtime/network/bpf.h"
#include "runtime/network/ingress_filter.h"

namespace godwit::runtime {
namespace {

// A one-pass assembler: jumps go forward, to a label that is placed later.
class Assembler {
 public:
  using Label = size_t;

  Label label() {
    jumps_.emplace_back();
    return jumps_.size() - 1;
  }
  void place(Label label) {
    for (const size_t at : jumps_[label]) code_[at].off = static_cast<int16_t>(code_.size() - at - 1);
  }
  void emit(uint8_t code, uint8_t to, uint8_t from, int16_t offset, int32_t value) {
    code_.push_back(bpf_insn{.code = code, .dst_reg = to, .src_reg = from, .off = offset, .imm = value});
  }
  void copy(uint8_t to, uint8_t from) { emit(BPF_ALU64 | BPF_MOV | BPF_X, to, from, 0, 0); }
  void set(uint8_t to, int32_t value) { emit(BPF_ALU64 | BPF_MOV | BPF_K, to, 0, 0, value); }
  // NOLINTNEXTLINE(misc-redundant-expression): the fields of a code are named even where they are zero
  void add(uint8_t to, int32_t value) { emit(BPF_ALU64 | BPF_ADD | BPF_K, to, 0, 0, value); }
  void load(uint8_t size, uint8_t to, uint8_t base, size_t offset) {
    emit(BPF_LDX | size | BPF_MEM, to, base, static_cast<int16_t>(offset), 0);
  }
  void store(uint8_t size, uint8_t base, size_t offset, uint8_t from) {
    emit(BPF_STX | size | BPF_MEM, base, from, static_cast<int16_t>(offset), 0);
  }
  void atomic_add(uint8_t base, size_t offset, uint8_t from) {
    emit(BPF_STX | BPF_DW | BPF_ATOMIC, base, from, static_cast<int16_t>(offset), BPF_ADD);
  }
  // The address of the array's first value.
  void load_state(uint8_t to, int map) {
    // NOLINTNEXTLINE(misc-redundant-expression): the fields of a code are named even where they are zero
    emit(BPF_LD | BPF_DW | BPF_IMM, to, BPF_PSEUDO_MAP_VALUE, 0, map);
    emit(0, 0, 0, 0, 0);
  }
  void jump(Label to) { jump_if(BPF_JMP | BPF_JA, 0, 0, 0, to); }
  void jump_if(uint8_t code, uint8_t left, uint8_t right, int32_t value, Label to) {
    jumps_[to].push_back(code_.size());
    emit(code, left, right, 0, value);
  }
  void call(int32_t function) { emit(BPF_JMP | BPF_CALL, 0, 0, 0, function); }
  void leave() { emit(BPF_JMP | BPF_EXIT, 0, 0, 0, 0); }
  void leave_with(int32_t verdict) {
    set(0, verdict);
    leave();
  }
  void redirect(uint32_t interface, int32_t helper = BPF_FUNC_redirect) {
    set(1, static_cast<int32_t>(interface));
    set(2, 0);
    call(helper);
    leave();
  }
  [[nodiscard]] Result<Fd> load_program(const std::string& name) const {
    return runtime::load_program(code_, name);
  }

 private:
  std::vector<bpf_insn> code_;
  std::vector<std::vector<size_t>> jumps_;
};

constexpr uint8_t kJumpEqual = BPF_JMP | BPF_JEQ | BPF_K;
constexpr uint8_t kJumpNotEqual = BPF_JMP | BPF_JNE | BPF_K;

// Registers that calls keep: the packet and the shared state.
constexpr uint8_t kPacket = 6;
constexpr uint8_t kState = 7;

Result<Fd> container_program(int map, const ParkInterfaces& interfaces) {
  Assembler code;
  const auto pass = code.label();
  const auto injected = code.label();
  const auto bounce = code.label();
  const auto counted = code.label();
  code.copy(kPacket, 1);
  code.load_state(kState, map);
  code.load(BPF_W, 1, kPacket, offsetof(__sk_buff, mark));
  code.jump_if(kJumpEqual, 1, 0, kInjectedMark, injected);
  code.load(BPF_W, 1, kState, offsetof(ParkState, mode));
  code.jump_if(kJumpEqual, 1, 0, static_cast<int32_t>(ParkMode::kOpen), pass);
  code.jump_if(kJumpNotEqual, 1, 0, static_cast<int32_t>(ParkMode::kDraining), bounce);
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
