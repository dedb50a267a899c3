#include "runtime/process/replica/registers.h"

#include <elf.h>
#include <signal.h>
#include <sys/ptrace.h>
#include <sys/uio.h>

#include <algorithm>
#include <cstring>

#include "runtime/process/puppet_trace.h"
#include "runtime/process/replica/member.h"
#include "runtime/process/restart.h"

namespace godwit::runtime::rebuild {
namespace {

constexpr size_t kFeaturesOffset = 464;  // XCR0, where the processor leaves room for software
constexpr size_t kInUseOffset = 512;     // XSTATE_BV
constexpr size_t kComponentsEnd = 576;

const model::SignalAction* find_action(const model::Process& process, uint32_t signal) {
  for (const model::SignalAction& action : process.signal_actions()) {
    if (action.signal() == signal) return &action;
  }
  return nullptr;
}

Interruption first_handler(const google::protobuf::RepeatedPtrField<model::PendingSignal>& pending,
                           const model::Process& process, uint64_t blocked) {
  for (const model::PendingSignal& signal : pending) {
    int32_t number = 0;
    signal.information().copy(reinterpret_cast<char*>(&number), sizeof number);
    if (number < 1 || number > 64 || (blocked >> (number - 1) & 1) != 0) continue;
    const model::SignalAction* action = find_action(process, static_cast<uint32_t>(number));
    constexpr uint64_t kIgnore = 1;  // SIG_IGN
    if (action == nullptr || action->handler() <= kIgnore) continue;
    return (action->flags() & SA_RESTART) != 0 ? Interruption::kRestartHandler : Interruption::kHandler;
  }
  return Interruption::kNone;
}

}  // namespace

Interruption find_interruption(const model::Process& process, const model::Thread& thread) {
  const Interruption own = first_handler(thread.pending_signals(), process, thread.signal_mask());
  if (own != Interruption::kNone) return own;
  return first_handler(process.pending_signals(), process, thread.signal_mask());
}

user_regs_struct resume_registers(user_regs_struct registers, Interruption interruption) {
  const auto result = static_cast<int64_t>(registers.rax);
  const bool in_call = static_cast<int64_t>(registers.orig_rax) >= 0;
  bool again = false;
  bool interrupted = false;
  switch (in_call ? result : 0) {
    case kRestartSystemCall:
      interrupted = interruption == Interruption::kHandler;
      again = !interrupted;
      break;
    case kRestartNoInterrupt:
      again = true;
      break;
    case kRestartNoHandler:
    case kRestartBlock:
      interrupted = interruption != Interruption::kNone;
      again = !interrupted;
      break;
    default:
      break;
  }
  if (again) {
    registers.rax = registers.orig_rax;
    registers.rip -= 2;  // the length of the syscall instruction
  } else if (interrupted) {
    registers.rax = static_cast<uint64_t>(-EINTR);
  }
  registers.orig_rax = ~uint64_t{0};
  return registers;
}

Result<std::vector<std::byte>> fit_extended_state(const std::string& state, uint64_t host_size,
                                                  uint64_t host_features) {
  if (state.size() < kComponentsEnd || host_size < kComponentsEnd) {
    return refuse("set the extended registers", std::to_string(state.size()) + " bytes", "too few");
  }
  uint64_t in_use = 0;
  std::memcpy(&in_use, state.data() + kInUseOffset, sizeof in_use);
  if ((in_use & ~host_features) != 0) {
    char text[64];
    snprintf(text, sizeof text, "components %llx", static_cast<unsigned long long>(in_use & ~host_features));
    return refuse("set the extended registers", text, "this host's processor or kernel lacks them");
  }
  std::vector<std::byte> fitted(host_size);
  std::memcpy(fitted.data(), state.data(), std::min<size_t>(state.size(), host_size));
  std::memcpy(fitted.data() + kFeaturesOffset, &host_features, sizeof host_features);
  return fitted;
}

Result<void> set_registers(Puppet& puppet, const model::Process& process, const model::Thread& wanted,
                           const HostFacts& facts) {
  const std::string name = "thread " + std::to_string(wanted.tid());
  GODWIT_ASSIGN(auto extended, fit_extended_state(wanted.extended_state(), facts.extended_state_size,
                                                  facts.extended_features));
  iovec place{.iov_base = extended.data(), .iov_len = extended.size()};
  if (trace(PTRACE_SETREGSET, puppet.tid(), NT_X86_XSTATE, &place) != 0) {
    return fail("set the extended registers of", name);
  }
  user_regs_struct registers;
  wanted.general_registers().copy(reinterpret_cast<char*>(&registers), sizeof registers);
  registers = resume_registers(registers, find_interruption(process, wanted));
  if (trace(PTRACE_SETREGS, puppet.tid(), 0, &registers) != 0) return fail("set the registers of", name);
  puppet.set_registers(registers);
  return puppet.set_signal_mask(wanted.signal_mask());
}

}  // namespace godwit::runtime::rebuild
