// Workers: the worker processes that are at work for this agent, so that its end can end them in order.
//
// Threads: all members may be called at once.
#pragma once

#include <chrono>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <set>

#include "engine/host/worker_process.h"

namespace godwit::engine {

class Workers {
 public:
  // One worker at work; it leaves the list when this goes.
  class Entry {
   public:
    ~Entry();
    Entry(const Entry&) = delete;
    Entry& operator=(const Entry&) = delete;
    [[nodiscard]] WorkerProcess& worker() { return *worker_; }

   private:
    friend class Workers;
    Entry(Workers& list, std::unique_ptr<WorkerProcess> worker) : list_(list), worker_(std::move(worker)) {}
    Workers& list_;
    std::unique_ptr<WorkerProcess> worker_;
  };

  // Starts one with `order`. Refused after end().
  Result<std::unique_ptr<Entry>> start(const model::WorkerOrder& order, Fd connection);
  // Starts no more, cancels those at work and waits for them; returns how many are still at it.
  size_t end(std::chrono::milliseconds patience);

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::set<Entry*> entries_;
  bool ending_ = false;
};

}  // namespace godwit::engine
