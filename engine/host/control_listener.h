// The agent's TCP listener for migrations that come in. Each accepted connection goes to `on_connection` on a
// thread of its own; at most kSessionsMax at once, further ones are closed without an answer.
//
// The connection is not authenticated here: --listen belongs on a network that only the hosts share.
#pragma once

#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>

#include "base/fd.h"

namespace godwit::engine {

class ControlListener {
 public:
  static constexpr unsigned kSessionsMax = 16;
  using OnConnection = std::function<void(Fd connection, const std::string& peer)>;

  static Result<std::unique_ptr<ControlListener>> start(const std::string& address,
                                                        OnConnection on_connection);
  // Stops accepting and waits for the sessions' threads; whoever calls it has told the sessions to end.
  ~ControlListener();
  ControlListener(const ControlListener&) = delete;
  ControlListener& operator=(const ControlListener&) = delete;
  void stop_accepting();

 private:
  explicit ControlListener(OnConnection on_connection) : on_connection_(std::move(on_connection)) {}
  void loop();
  void hand_over(Fd connection, const std::string& peer);

  OnConnection on_connection_;
  Fd socket_;
  Fd wake_;
  std::mutex mutex_;
  std::condition_variable ended_;
  unsigned sessions_ = 0;
  std::thread thread_;
};

}  // namespace godwit::engine
