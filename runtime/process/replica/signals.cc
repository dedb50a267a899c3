// Signal actions and pending signals.
#include <signal.h>
#include <sys/syscall.h>

#include <array>

#include "runtime/process/replica/member.h"

namespace godwit::runtime::rebuild {
namespace {

constexpr uint32_t kSignals = 64;

struct KernelSigaction {  // struct sigaction of the kernel on x86-64
  uint64_t handler = 0;
  uint64_t flags = 0;
  uint64_t restorer = 0;
  uint64_t mask = 0;
};

}  // namespace

// All of them: what the snapshot does not name is at its default.
void set_signal_actions(CallBatch& batch, const model::Process& wanted) {
  std::array<KernelSigaction, kSignals + 1> actions{};
  for (const model::SignalAction& action : wanted.signal_actions()) {
    actions[action.signal()] = {action.handler(), action.flags(), action.restorer(), action.mask()};
  }
  for (uint32_t signal = 1; signal <= kSignals; signal++) {
    if (signal == SIGKILL || signal == SIGSTOP) continue;
    batch.call(SYS_rt_sigaction, {signal, batch.object(actions[signal]), 0, sizeof(uint64_t)},
               "sigaction of signal " + std::to_string(signal));
  }
}

// By the thread itself: the kernel takes any si_code from a thread that signals itself. They stay pending,
// since the thread is stopped before it runs again. tid 0: signals of the process.
void queue_signals(CallBatch& batch, const google::protobuf::RepeatedPtrField<model::PendingSignal>& pending,
                   uint32_t pid, uint32_t tid) {
  for (const model::PendingSignal& signal : pending) {
    int32_t number = 0;
    signal.information().copy(reinterpret_cast<char*>(&number), sizeof number);
    if (number == SIGKILL || number == SIGSTOP) continue;
    const auto information =
        batch.data(std::as_bytes(std::span(signal.information().data(), signal.information().size())));
    const std::string what = "queue signal " + std::to_string(number);
    if (tid == 0) {
      batch.call(SYS_rt_sigqueueinfo, {pid, number, information}, what);
    } else {
      batch.call(SYS_rt_tgsigqueueinfo, {pid, tid, number, information}, what);
    }
  }
}

}  // namespace godwit::runtime::rebuild
