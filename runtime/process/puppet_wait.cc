// Waiting for a puppet's next stop, without waiting for ever for one that was killed.
//
// wait4(2) does not report a thread that has ended while it leads a process whose other threads have not been
// waited for; and the last thread of a pid namespace's init does not even end before the other processes of
// the namespace have been waited for (pid_namespaces(7)). All of them are this tracer's to wait for. So it
// looks without blocking, and sleeps in sigtimedwait(2): each stop and each end of a tracee sends SIGCHLD to
// its tracer. If nothing comes, /proc/TID/stat says whether anything still can.
#include <signal.h>
#include <sys/wait.h>

#include <algorithm>
#include <sstream>

#include "base/clock.h"
#include "base/fd.h"
#include "runtime/kernel/thread_state.h"
#include "runtime/process/puppet.h"

namespace godwit::runtime {
namespace {

constexpr int64_t kPauseMinNs = 1'000'000;
constexpr int64_t kPauseMaxNs = 100'000'000;
// A thread on its way out is reported in the end, unless it waits for others: how long it may take.
constexpr int64_t kEndingNs = 1'000'000'000;

// SIGCHLD, blocked in this thread so that it stays until it is taken.
const sigset_t& child_signal() {
  thread_local const sigset_t signals = [] {
    sigset_t set;
    ::sigemptyset(&set);
    ::sigaddset(&set, SIGCHLD);
    ::pthread_sigmask(SIG_BLOCK, &set, nullptr);
    return set;
  }();
  return signals;
}

enum class Fate : uint8_t { kLives, kEnding, kEnded };

// Fields of /proc/TID/stat after the name, which is in parentheses and may hold anything (proc(5)).
Fate fate_of(pid_t tid) {
  constexpr uint64_t kExiting = 0x4;  // PF_EXITING of the field `flags`
  const auto text = read_file("/proc/" + std::to_string(tid) + "/stat");
  if (!text.has_value()) {
    // Not to be read, for want of a descriptor, is not to be gone.
    const bool gone = text.error().code == ENOENT || text.error().code == ESRCH;
    return gone ? Fate::kEnded : Fate::kLives;
  }
  char state = '?';
  int64_t skipped = 0;
  uint64_t flags = 0;
  std::istringstream fields(text->substr(text->rfind(')') + 1));
  fields >> state;
  for (int i = 0; i < 5; ++i) fields >> skipped;  // parent, group, session, terminal and its group
  fields >> flags;
  if (state == 'Z' || state == 'X') return Fate::kEnded;
  return (flags & kExiting) != 0 ? Fate::kEnding : Fate::kLives;
}

}  // namespace

void keep_child_signals() {
  static_cast<void>(child_signal());
}

// The status of its next stop. EAGAIN if there is none by `deadline`.
Result<int> Puppet::wait_status(Deadline deadline) {
  const sigset_t& signals = child_signal();
  const int64_t begin_ns = monotonic_ns();
  int64_t pause_ns = kPauseMinNs;
  for (;;) {
    int status = 0;
    const pid_t found = ::waitpid(tid_, &status, __WALL | WNOHANG);
    if (found == tid_ && WIFSTOPPED(status)) return status;
    if (found < 0 && errno == EINTR) continue;
    if (found < 0) {
      seized_ = false;
      return fail("wait for", name());
    }
    if (found == tid_) break;
    const timespec pause = Deadline::in_ns(pause_ns).sooner_of(deadline).left();
    if (::sigtimedwait(&signals, nullptr, &pause) >= 0 && !deadline.passed()) continue;
    pause_ns = std::min(2 * pause_ns, kPauseMaxNs);
    const Fate fate = fate_of(tid_);
    if (fate == Fate::kEnded) break;
    if (fate == Fate::kEnding && monotonic_ns() - begin_ns > kEndingNs) break;
    if (deadline.passed()) return fail("stop", thread_name(tid_), EAGAIN, what_holds(tid_));
  }
  seized_ = false;
  return fail("wait for", name(), ESRCH, "it has ended");
}

}  // namespace godwit::runtime
