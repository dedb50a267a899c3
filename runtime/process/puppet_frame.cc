// The frame through which a thread comes back to itself when its tracer has died in the middle of a batch:
// what the kernel puts on a stack before a signal handler, made by hand (arch/x86 sigframe.h, sigcontext.h;
// the layout is ABI).
#include <cpuid.h>
#include <signal.h>

#include <bit>
#include <cstring>

#include "runtime/process/restart.h"
#include "runtime/process/scratch.h"

namespace godwit::runtime {
namespace {

constexpr size_t kExtendedStateOffset = 448;  // 64-byte aligned, as XRSTOR wants it
constexpr size_t kLegacyStateSize = 512;
constexpr size_t kSoftwareBytesOffset = 464;  // of the legacy state: left to software by the processor
constexpr size_t kStateHeaderSize = 64;
constexpr uint64_t kTileFeatures = 3U << 17U;  // AMX, enabled for those only that asked for it

// uc_flags (the kernel's arch/x86 asm/ucontext.h).
constexpr uint64_t kHasExtendedState = 1, kHasStackSegment = 2, kStrictStackSegment = 4;

struct KernelContext {  // struct ucontext of the kernel: shorter than the C library's
  uint64_t flags;
  uint64_t link;
  stack_t stack;
  sigcontext machine;
  uint64_t mask;
};
struct KernelFrame {  // struct rt_sigframe, as far as rt_sigreturn reads it
  uint64_t return_address;
  KernelContext context;
};
static_assert(sizeof(KernelContext) == 304 && sizeof(KernelFrame) <= kExtendedStateOffset);

// Bytes that the components `features` take in the standard (not compacted) format.
size_t extended_state_size(uint64_t features) {
  size_t size = kLegacyStateSize + kStateHeaderSize;
  for (uint64_t rest = features & ~uint64_t{3}; rest != 0; rest &= rest - 1) {
    unsigned length = 0, offset = 0, flags = 0, unused = 0;
    __cpuid_count(0xd, std::countr_zero(rest), length, offset, flags, unused);
    size = std::max<size_t>(size, size_t{offset} + length);
  }
  return size;
}

// Undoes the entry into a system call that was interrupted. What is left of a timeout is lost on the way
// through rt_sigreturn, so such a call reports the interruption, as after a handler.
void rewind_system_call(sigcontext& machine, const user_regs_struct& registers) {
  if (static_cast<int64_t>(registers.orig_rax) < 0) return;
  switch (static_cast<int64_t>(registers.rax)) {
    case kRestartSystemCall:
    case kRestartNoInterrupt:
    case kRestartNoHandler:
      machine.rax = registers.orig_rax;
      machine.rip -= 2;
      return;
    case kRestartBlock:
      machine.rax = static_cast<uint64_t>(-EINTR);
      return;
    default:
      return;
  }
}

sigcontext machine_context(const user_regs_struct& from) {
  sigcontext to{};
  to.r8 = from.r8;
  to.r9 = from.r9;
  to.r10 = from.r10;
  to.r11 = from.r11;
  to.r12 = from.r12;
  to.r13 = from.r13;
  to.r14 = from.r14;
  to.r15 = from.r15;
  to.rdi = from.rdi;
  to.rsi = from.rsi;
  to.rbp = from.rbp;
  to.rbx = from.rbx;
  to.rdx = from.rdx;
  to.rax = from.rax;
  to.rcx = from.rcx;
  to.rsp = from.rsp;
  to.rip = from.rip;
  to.eflags = from.eflags;
  to.cs = static_cast<uint16_t>(from.cs);
  to.__pad0 = static_cast<uint16_t>(from.ss);
  rewind_system_call(to, from);
  return to;
}

}  // namespace

Result<std::vector<std::byte>> make_return_frame(const user_regs_struct& registers, uint64_t mask,
                                                 std::span<const std::byte> xstate, uint64_t address) {
  if (xstate.size() < kLegacyStateSize + kStateHeaderSize)
    return refuse("read the extended registers", std::to_string(xstate.size()) + " bytes", "too few");
  uint64_t enabled = 0;  // ptrace puts XCR0 where a signal frame has its software bytes
  std::memcpy(&enabled, xstate.data() + kSoftwareBytesOffset, sizeof enabled);
  uint64_t in_use = 0;
  std::memcpy(&in_use, xstate.data() + kLegacyStateSize, sizeof in_use);
  const uint64_t features = (in_use & kTileFeatures) != 0 ? enabled : enabled & ~kTileFeatures;
  const size_t size = std::min(xstate.size(), extended_state_size(features));
  if (kExtendedStateOffset + size + sizeof(uint32_t) > kScratchFrameSize)
    return refuse("prepare the return frame", std::to_string(size) + " bytes of extended state",
                  "more than Godwit knows of");

  std::vector<std::byte> bytes(kExtendedStateOffset + size + sizeof(uint32_t));
  KernelFrame frame{};
  // The alternate signal stack stays as it is: rt_sigreturn ignores flags that sigaltstack(2) rejects.
  frame.context.stack.ss_flags = -1;
  frame.context.flags = kHasExtendedState | kHasStackSegment | kStrictStackSegment;
  frame.context.machine = machine_context(registers);
  frame.context.machine.fpstate = std::bit_cast<_fpstate*>(address + kExtendedStateOffset);
  frame.context.mask = mask;
  std::memcpy(bytes.data(), &frame, sizeof frame);

  std::byte* state = bytes.data() + kExtendedStateOffset;
  std::memcpy(state, xstate.data(), size);
  const uint64_t present = in_use & features;
  std::memcpy(state + kLegacyStateSize, &present, sizeof present);
  const _fpx_sw_bytes software{.magic1 = FP_XSTATE_MAGIC1,
                               .extended_size = static_cast<uint32_t>(size + sizeof(uint32_t)),
                               .xstate_bv = features,
                               .xstate_size = static_cast<uint32_t>(size),
                               .__glibc_reserved1 = {}};
  std::memcpy(state + kSoftwareBytesOffset, &software, sizeof software);
  const uint32_t end_mark = FP_XSTATE_MAGIC2;
  std::memcpy(state + size, &end_mark, sizeof end_mark);
  return bytes;
}

}  // namespace godwit::runtime
