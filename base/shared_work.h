// SharedWork: a thread and its helpers, for work that is divided as it is done.
//
// Threads: all of it belongs to one thread, the owner.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace godwit {

class SharedWork {
 public:
  // Starts the helpers, each of which calls `prepare` first (a thread does not always inherit how its maker
  // is scheduled, sched(7)); fewer where the system has no more threads to give.
  explicit SharedWork(
      size_t helpers = 0, const std::function<void()>& prepare = [] {});
  SharedWork(const SharedWork&) = delete;
  SharedWork& operator=(const SharedWork&) = delete;
  ~SharedWork();

  // The owner and its helpers.
  [[nodiscard]] size_t lanes() const { return helpers_.size() + 1; }
  // Calls task(0) here, and task(1) to task(lanes() - 1) on helpers that come before it has ended; returns
  // when all that were begun have ended. So a lane takes its work from what is left of the whole, not a share
  // of it. `task` may not throw.
  void run(const std::function<void(size_t lane)>& task);

 private:
  void help(size_t lane);

  std::mutex mutex_;
  std::condition_variable changed_;
  const std::function<void(size_t)>* task_ = nullptr;  // of run()
  uint64_t run_ = 0;                                   // counts them
  size_t helping_ = 0;                                 // inside of the task
  bool ending_ = false;
  std::vector<std::thread> helpers_;
};

}  // namespace godwit
