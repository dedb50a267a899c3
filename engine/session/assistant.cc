#include "engine/session/assistant.h"

#include <utility>

namespace godwit::engine {

Assistant::Assistant() : thread_([this] { work(); }) {}

Assistant::~Assistant() {
  {
    const std::lock_guard lock(mutex_);
    ending_ = true;
  }
  changed_.notify_one();
  thread_.join();
}

void Assistant::hand_over(std::function<void()> task) {
  {
    const std::lock_guard lock(mutex_);
    task_ = std::move(task);
  }
  changed_.notify_one();
}

void Assistant::work() {
  std::unique_lock lock(mutex_);
  for (;;) {
    changed_.wait(lock, [this] { return ending_ || task_; });
    if (!task_) return;
    const auto task = std::exchange(task_, nullptr);
    lock.unlock();
    task();
    lock.lock();
  }
}

}  // namespace godwit::engine
