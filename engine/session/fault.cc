#include "engine/session/fault.h"

#include <poll.h>
#include <signal.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <ctime>

#include "base/clock.h"
#include "base/fd.h"
#include "engine/session/steps.h"

namespace godwit::engine {

namespace {

// Returns when its last thread has ended and its descriptors are closed. This process gets another parent
// before: a session that asks then may still find the agent's end of its channel open.
Result<void> kill_agent() {
  const pid_t agent = ::getppid();
  const Fd pidfd(static_cast<int>(::syscall(SYS_pidfd_open, agent, 0)));
  if (!pidfd.valid() || ::kill(agent, SIGKILL) != 0) return fail("kill", "the agent");
  pollfd ended{.fd = pidfd.get(), .events = POLLIN, .revents = 0};
  while (::poll(&ended, 1, -1) < 0)
    if (errno != EINTR) return fail("await the end of", "the agent");
  return {};
}

}  // namespace

Faults::Faults(const std::string& order) {
  const size_t colon = order.find(':');
  if (colon == std::string::npos) return;
  step_ = order.substr(0, colon);
  action_ = order.substr(colon + 1);
}

Result<void> Faults::at_step(const std::string& step, int64_t deadline_ns) {
  if (std::ranges::find(kSteps, step) == kSteps.end())
    return refuse("carry out", step, "it is not in the list of steps (engine/session/steps.h)");
  if (step_.empty() || step != step_) return {};
  step_.clear();
  if (action_ == "kill") ::raise(SIGKILL);
  if (action_ == "kill-agent") GODWIT_TRY(kill_agent());
  if (action_ == "stop") ::raise(SIGSTOP);
  if (action_ == "cut" && control_socket_ >= 0) ::shutdown(control_socket_, SHUT_RDWR);
  if (action_ == "garbage" && control_socket_ >= 0) {
    std::array<std::byte, 4096> noise{};
    if (::getrandom(noise.data(), noise.size(), 0) < 0 ||
        ::send(control_socket_, noise.data(), noise.size(), MSG_NOSIGNAL) < 0)
      return fail("send garbage to", "the peer");
  }
  if (action_ == "fail") return refuse("carry out", step, "a test ordered it to fail");
  if (action_ == "late") {
    const int64_t left_ns = deadline_ns - monotonic_ns() + 50'000'000;
    const timespec nap{.tv_sec = left_ns / 1'000'000'000, .tv_nsec = left_ns % 1'000'000'000};
    if (left_ns > 0) ::nanosleep(&nap, nullptr);
  }
  return {};
}

}  // namespace godwit::engine
