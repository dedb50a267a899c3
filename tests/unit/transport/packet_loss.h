// PacketLoss: an interface drops what arrives, all of it or one packet in `one_in`, until this goes, however
// it goes: a small XDP program, attached by a descriptor. netem(8) will not do: it tells a
// sender on the same host that it has dropped the packet, which no network does.
#pragma once

#include <linux/bpf.h>
#include <net/if.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <cstring>
#include <string>

#include "base/fd.h"

namespace godwit::transport::test {

class PacketLoss {
 public:
  static Result<PacketLoss> start(const std::string& interface, int one_in) {
    const auto instruction = [](int code, int16_t offset, int32_t value) {
      return bpf_insn{
          .code = static_cast<uint8_t>(code), .dst_reg = 0, .src_reg = 0, .off = offset, .imm = value};
    };
    const std::array<bpf_insn, 7> program{{
        instruction(BPF_JMP | BPF_CALL, 0, BPF_FUNC_get_prandom_u32),
        instruction(BPF_ALU | BPF_MOD, 0, one_in),
        instruction(BPF_JMP | BPF_JEQ, 2, 0),
        instruction(BPF_ALU | BPF_MOV, 0, XDP_PASS),
        instruction(BPF_JMP | BPF_EXIT, 0, 0),
        instruction(BPF_ALU | BPF_MOV, 0, XDP_DROP),
        instruction(BPF_JMP | BPF_EXIT, 0, 0),
    }};
    bpf_attr load;
    std::memset(&load, 0, sizeof load);
    load.prog_type = BPF_PROG_TYPE_XDP;
    load.insns = reinterpret_cast<uint64_t>(program.data());
    load.insn_cnt = program.size();
    load.license = reinterpret_cast<uint64_t>("Apache-2.0");
    const Fd loaded(static_cast<int>(::syscall(SYS_bpf, BPF_PROG_LOAD, &load, sizeof load)));
    if (!loaded.valid()) return fail("load", "the program that drops packets");
    bpf_attr attach;
    std::memset(&attach, 0, sizeof attach);
    attach.link_create.prog_fd = static_cast<uint32_t>(loaded.get());
    attach.link_create.target_ifindex = ::if_nametoindex(interface.c_str());
    attach.link_create.attach_type = BPF_XDP;
    attach.link_create.flags = 1U << 1;  // XDP_FLAGS_SKB_MODE: for every kind of interface
    PacketLoss loss;
    loss.link_ = Fd(static_cast<int>(::syscall(SYS_bpf, BPF_LINK_CREATE, &attach, sizeof attach)));
    if (!loss.link_.valid()) return fail("drop packets at", interface);
    return loss;
  }

 private:
  Fd link_;
};

}  // namespace godwit::transport::test
