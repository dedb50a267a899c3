#include "engine/fault.h"

#include <signal.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <ctime>

#include "base/clock.h"

namespace godwit::engine {

namespace {

// Returns when it is dead: this process then has another parent.
void kill_agent() {
  constexpr unsigned kLookUs = 500;
  const pid_t agent = ::getppid();
  ::kill(agent, SIGKILL);
  while (::getppid() == agent) ::usleep(kLookUs);
}

}  // namespace

Faults::Faults(const std::string& order) {
  const size_t colon = order.find(':');
  if (colon == std::string::npos) return;
  step_ = order.substr(0, colon);
  action_ = order.substr(colon + 1);
}

Result<void> Faults::at_step(const std::string& step, int64_t deadline_ns) {
  if (step_.empty() || step != step_) return {};
  step_.clear();
  if (action_ == "kill") ::raise(SIGKILL);
  if (action_ == "kill-agent") kill_agent();
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
