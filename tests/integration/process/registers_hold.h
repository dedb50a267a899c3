// A check that the registers of a thread are its own, for programs that are moved while it goes on.
#pragma once

#include <cstdint>

namespace godwit::runtime::test {

// Two vector registers and two callee-saved ones hold their values through a long loop.
[[gnu::noinline]] inline bool registers_hold(uint64_t seed) {
  uint64_t marks[4] = {seed, ~seed, seed * 3, seed * 5};
  uint64_t lanes[2] = {};
  uint64_t a = 0, b = 0;
  asm volatile(
      "movq (%[marks]), %%xmm7\n movq 8(%[marks]), %%xmm15\n mov 16(%[marks]), %%r12\n mov 24(%[marks]), "
      "%%r13\n mov $200000, %%ecx\n 1: dec %%ecx\n jnz 1b\n"
      "movq %%xmm7, (%[lanes])\n movq %%xmm15, 8(%[lanes])\n mov %%r12, %[a]\n mov %%r13, %[b]\n"
      : [a] "=&r"(a), [b] "=&r"(b)
      : [marks] "r"(marks), [lanes] "r"(lanes)
      : "xmm7", "xmm15", "r12", "r13", "rcx", "memory", "cc");
  return lanes[0] == marks[0] && lanes[1] == marks[1] && a == marks[2] && b == marks[3];
}

}  // namespace godwit::runtime::test
