// A worker: this program started again for one session, so that a crash takes that session and nothing else.
//
// It inherits the socket pair as fd 3, the accepted connection as fd 4 (at a target) and stderr; all other
// descriptors are closed. It leads a process group of its own, so that a Ctrl-C in the agent's terminal
// reaches only the agent, which ends its workers in order.
#pragma once

#include <sys/types.h>

#include <memory>
#include <mutex>
#include <optional>
#include <string>

#include "base/fd.h"
#include "base/result.h"
#include "engine/protocol/worker.pb.h"

namespace godwit::engine {

class WorkerProcess {
 public:
  // Starts one and gives it its order.
  static Result<std::unique_ptr<WorkerProcess>> start(const model::WorkerOrder& order, Fd connection);
  // Kills it if it still runs.
  ~WorkerProcess();
  WorkerProcess(const WorkerProcess&) = delete;
  WorkerProcess& operator=(const WorkerProcess&) = delete;

  // One thread. The next report; none when the worker has closed its end, which it does by ending.
  // ETIMEDOUT after `timeout_ms`; 0: waits as long as it takes.
  Result<std::optional<model::WorkerReport>> next_report(int64_t timeout_ms = 0);
  // One thread. Waits for its end; says how it ended, or nothing if it ended with status 0.
  std::optional<std::string> wait();

  // Any thread.
  void cancel();
  // The answer to its report `arrived`.
  void say_kept();
  void kill();
  [[nodiscard]] pid_t pid() const { return pid_; }

 private:
  void send(const model::WorkerOrder& order);
  WorkerProcess(pid_t pid, Fd socket) : pid_(pid), socket_(std::move(socket)) {}

  const pid_t pid_;
  Fd socket_;
  std::mutex mutex_;  // of sending, and of `ended_`: a pid that was waited for may be somebody else's
  bool ended_ = false;
};

}  // namespace godwit::engine
