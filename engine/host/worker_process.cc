#include "engine/host/worker_process.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <signal.h>
#include <spawn.h>
#include <spdlog/spdlog.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "engine/protocol/framing.h"
#include "engine/session/worker.h"

namespace godwit::engine {
namespace {

// Sources of dup2 must lie above all its targets.
constexpr int kLeastFd = 10;

Result<Fd> move_up(int fd) {
  Fd moved(::fcntl(fd, F_DUPFD_CLOEXEC, kLeastFd));
  if (!moved.valid()) return fail("duplicate", "a worker's descriptor");
  return moved;
}

// posix_spawn(3)'s two objects, freed together.
struct SpawnPlan {
  posix_spawn_file_actions_t actions;
  posix_spawnattr_t attributes;
  SpawnPlan() {
    ::posix_spawn_file_actions_init(&actions);
    ::posix_spawnattr_init(&attributes);
  }
  ~SpawnPlan() {
    ::posix_spawn_file_actions_destroy(&actions);
    ::posix_spawnattr_destroy(&attributes);
  }
  SpawnPlan(const SpawnPlan&) = delete;
  SpawnPlan& operator=(const SpawnPlan&) = delete;
};

int fill_plan(SpawnPlan& plan, int agent_fd, int connection_fd) {
  sigset_t none;
  sigset_t all;
  ::sigemptyset(&none);
  ::sigfillset(&all);
  ::posix_spawnattr_setsigmask(&plan.attributes, &none);
  ::posix_spawnattr_setsigdefault(&plan.attributes, &all);
  ::posix_spawnattr_setpgroup(&plan.attributes, 0);
  ::posix_spawnattr_setflags(&plan.attributes,
                             POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETPGROUP);
  int error = ::posix_spawn_file_actions_adddup2(&plan.actions, agent_fd, kWorkerAgentFd);
  const bool connected = connection_fd >= 0;
  if (error == 0 && connected)
    error = ::posix_spawn_file_actions_adddup2(&plan.actions, connection_fd, kWorkerConnectionFd);
  if (error == 0)
    error = ::posix_spawn_file_actions_addclosefrom_np(
        &plan.actions, connected ? kWorkerConnectionFd + 1 : kWorkerConnectionFd);
  return error;
}

}  // namespace

Result<std::unique_ptr<WorkerProcess>> WorkerProcess::start(const model::WorkerOrder& order, Fd connection) {
  int pair[2];
  if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) != 0) return fail("make", "a socket pair");
  Fd ours(pair[0]);
  const Fd low(pair[1]);
  GODWIT_ASSIGN(const Fd theirs, move_up(low.get()));
  Fd high;
  if (connection.valid()) {
    GODWIT_ASSIGN(high, move_up(connection.get()));
  }

  SpawnPlan plan;
  int error = fill_plan(plan, theirs.get(), high.get());
  char program[] = "godwitd";
  char mode[] = "worker";
  char* arguments[] = {program, mode, nullptr};
  pid_t pid = 0;
  if (error == 0)
    error = ::posix_spawn(&pid, "/proc/self/exe", &plan.actions, &plan.attributes, arguments, environ);
  if (error != 0) return fail("start", "a worker", error);

  std::unique_ptr<WorkerProcess> worker(new WorkerProcess(pid, std::move(ours)));
  constexpr int64_t kOrderNs = 5'000'000'000;
  GODWIT_TRY(send_message(worker->socket_.get(), order, monotonic_ns() + kOrderNs));
  return worker;
}

WorkerProcess::~WorkerProcess() {
  if (ended_) return;
  kill();
  (void)wait();
}

Result<std::optional<model::WorkerReport>> WorkerProcess::next_report(int64_t timeout_ms) {
  model::WorkerReport report;
  const int64_t deadline_ns = timeout_ms == 0 ? 0 : monotonic_ns() + timeout_ms * 1'000'000;
  auto received = receive_message(socket_.get(), report, deadline_ns);
  if (received) return report;
  if (received.error().code == ECONNRESET) return std::nullopt;
  return std::unexpected(std::move(received).error());
}

std::optional<std::string> WorkerProcess::wait() {
  siginfo_t info{};
  while (::waitid(P_PID, static_cast<id_t>(pid_), &info, WEXITED | WNOWAIT) != 0 && errno == EINTR) {
  }
  const std::lock_guard lock(mutex_);
  ended_ = true;
  int status = 0;
  if (::waitpid(pid_, &status, 0) != pid_) return fmt::format("worker {} could not be waited for", pid_);
  if (WIFSIGNALED(status))
    return fmt::format("worker ended by signal {} ({})", WTERMSIG(status), ::sigdescr_np(WTERMSIG(status)));
  if (WEXITSTATUS(status) != 0) return fmt::format("worker ended with status {}", WEXITSTATUS(status));
  return std::nullopt;
}

void WorkerProcess::cancel() {
  model::WorkerOrder order;
  order.mutable_cancel();
  send(order);
}

void WorkerProcess::say_kept() {
  model::WorkerOrder order;
  order.mutable_kept();
  send(order);
}

// One that is gone needs no more orders.
void WorkerProcess::send(const model::WorkerOrder& order) {
  const std::lock_guard lock(mutex_);
  if (ended_) return;
  constexpr int64_t kSendNs = 1'000'000'000;
  if (auto sent = send_message(socket_.get(), order, monotonic_ns() + kSendNs); !sent)
    spdlog::debug("order to worker {}: {}", pid_, sent.error().to_string());
}

void WorkerProcess::kill() {
  const std::lock_guard lock(mutex_);
  if (!ended_) ::kill(pid_, SIGKILL);
}

}  // namespace godwit::engine
