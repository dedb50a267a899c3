// SharedWork: what one thread has to do, and others help with when they have time.
//
//   owner                       helper, whenever it is free
//     run(3, task)                help()
//     run(2, another)
//     end()
//
// Threads: run() and end() belong to the owner, help() to any other thread.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace godwit {

// Processors that this thread may use.
[[nodiscard]] size_t available_processors();

class SharedWork {
 public:
  // Starts helpers of its own, each of which calls `prepare` first (a thread does not always inherit how its
  // maker is scheduled, sched(7)); fewer where the system has no more threads to give.
  explicit SharedWork(
      size_t helpers = 0, const std::function<void()>& prepare = [] {});
  SharedWork(const SharedWork&) = delete;
  SharedWork& operator=(const SharedWork&) = delete;
  // Ends, and waits for its own helpers. Nobody else may be in help() any more.
  ~SharedWork();

  // Calls task(0) here, and task(1) to task(lanes - 1) on as many helpers as come meanwhile; returns when all
  // that were begun have ended. So a lane takes its work from what is left of the whole, not a share of it.
  // `task` may not throw.
  void run(size_t lanes, const std::function<void(size_t lane)>& task);
  // There will be no more.
  void end();

  // Helps with what runs and with all that follows; returns after end().
  void help();

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  const std::function<void(size_t)>* task_ = nullptr;  // of run()
  size_t lanes_ = 0;
  size_t next_lane_ = 0;
  size_t helping_ = 0;  // inside of the task
  bool ended_ = false;
  std::vector<std::thread> helpers_;
};

}  // namespace godwit
