#include "base/shared_work.h"

#include <system_error>

namespace godwit {

SharedWork::SharedWork(size_t helpers, const std::function<void()>& prepare) {
  helpers_.reserve(helpers);
  try {
    while (helpers_.size() < helpers)
      helpers_.emplace_back([this, prepare, lane = lanes()] {
        prepare();
        help(lane);
      });
  } catch (const std::system_error&) {
    return;  // the work is done by fewer
  }
}

SharedWork::~SharedWork() {
  {
    const std::lock_guard lock(mutex_);
    ending_ = true;
  }
  changed_.notify_all();
  for (std::thread& helper : helpers_) helper.join();
}

void SharedWork::run(const std::function<void(size_t lane)>& task) {
  {
    const std::lock_guard lock(mutex_);
    task_ = &task;
    ++run_;
  }
  changed_.notify_all();
  task(0);
  std::unique_lock lock(mutex_);
  task_ = nullptr;
  changed_.wait(lock, [this] { return helping_ == 0; });
}

void SharedWork::help(size_t lane) {
  uint64_t last = 0;  // that it has taken part in
  std::unique_lock lock(mutex_);
  for (;;) {
    changed_.wait(lock, [&] { return ending_ || (task_ != nullptr && run_ != last); });
    if (ending_) return;
    last = run_;
    const auto& task = *task_;
    ++helping_;
    lock.unlock();
    task(lane);
    lock.lock();
    if (--helping_ == 0) changed_.notify_all();
  }
}

}  // namespace godwit
