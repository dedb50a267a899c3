// A worker's line to the agent that started it (worker.proto over a socket pair). Threads: one.
#pragma once

#include "base/fd.h"
#include "base/result.h"
#include "engine/protocol/worker.pb.h"

namespace godwit::engine {

class AgentChannel {
 public:
  explicit AgentChannel(Fd socket) : socket_(std::move(socket)) {}
  [[nodiscard]] int fd() const { return socket_.get(); }
  Result<model::WorkerOrder> receive_order();
  // An agent that is gone cannot be told; the session decides by itself what that means.
  void report(const model::WorkerReport& report);
  // After the report `arrived`: waits until the agent keeps the container.
  Result<void> await_kept();
  // To be asked when fd() is readable: why the session has to end.
  Result<void> why_interrupted();

 private:
  Fd socket_;
};

}  // namespace godwit::engine
