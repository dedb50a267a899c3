// Assistant: a thread beside a session's own, for work that goes on while the session waits or traces. It
// lives as long as the session does, so that it is there at once when the container is frozen.
//
// Threads: run() and the returned future belong to the session's thread; the destructor joins.
#pragma once

#include <condition_variable>
#include <functional>
#include <future>
#include <mutex>
#include <thread>

namespace godwit::engine {

class Assistant {
 public:
  Assistant();
  Assistant(const Assistant&) = delete;
  Assistant& operator=(const Assistant&) = delete;
  // Waits for the task that runs.
  ~Assistant();

  // Runs `task` on the assistant's thread. One at a time: the future of the task before is to be waited for.
  template <typename Outcome>
  std::future<Outcome> run(std::function<Outcome()> task) {
    auto promise = std::make_shared<std::promise<Outcome>>();
    auto future = promise->get_future();
    hand_over([promise, task = std::move(task)] { promise->set_value(task()); });
    return future;
  }

 private:
  void hand_over(std::function<void()> task);
  void work();

  std::mutex mutex_;
  std::condition_variable changed_;
  std::function<void()> task_;  // empty: none
  bool ending_ = false;
  std::thread thread_;  // started last
};

}  // namespace godwit::engine
