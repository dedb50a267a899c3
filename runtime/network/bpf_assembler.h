// What the BPF programs of this folder are written with.
#pragma once

#include <linux/bpf.h>
#include <linux/if_ether.h>

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/fd.h"
#include "base/result.h"
#include "runtime/network/bpf.h"

namespace godwit::runtime {

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
  // NOLINTBEGIN(misc-redundant-expression): as above
  void keep_bits(uint8_t of, int32_t mask) { emit(BPF_ALU64 | BPF_AND | BPF_K, of, 0, 0, mask); }
  void shift_left(uint8_t of, int32_t bits) { emit(BPF_ALU64 | BPF_LSH | BPF_K, of, 0, 0, bits); }
  // NOLINTEND(misc-redundant-expression)
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
  // The byte of the packet's frame, its Ethernet header included, at `offset`, or at what is in register 2 if
  // none is given; jumps if the frame is shorter. Overwrites registers 0 to 5.
  void load_frame_byte(uint8_t to, uint8_t packet, std::optional<int32_t> offset, Label shorter) {
    constexpr int16_t kOnStack = -8;
    if (offset) set(2, *offset);
    copy(1, packet);
    copy(3, BPF_REG_10);
    add(3, kOnStack);
    set(4, 1);
    call(BPF_FUNC_skb_load_bytes);
    jump_if(BPF_JMP | BPF_JNE | BPF_K, 0, 0, 0, shorter);
    emit(BPF_LDX | BPF_B | BPF_MEM, to, BPF_REG_10, kOnStack, 0);
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

// Where in a frame the headers say what they carry.
inline constexpr int32_t kNetworkHeader = ETH_HLEN;
inline constexpr int32_t kProtocolByte = kNetworkHeader + 9;    // IPv4
inline constexpr int32_t kNextHeaderByte = kNetworkHeader + 6;  // IPv6

inline constexpr uint8_t kJumpEqual = BPF_JMP | BPF_JEQ | BPF_K;
inline constexpr uint8_t kJumpNotEqual = BPF_JMP | BPF_JNE | BPF_K;

// Registers that calls keep: the packet and the shared state.
inline constexpr uint8_t kPacket = 6;
inline constexpr uint8_t kState = 7;

}  // namespace godwit::runtime
