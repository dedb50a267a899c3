#include "base/shared_work.h"

#include <sched.h>

#include <system_error>

namespace godwit {

size_t available_processors() {
  cpu_set_t set;
  CPU_ZERO(&set);
  if (::sched_getaffinity(0, sizeof set, &set) != 0) return 1;  // more processors than a cpu_set_t names
  return static_cast<size_t>(CPU_COUNT(&set));
}

SharedWork::SharedWork(size_t helpers, const std::function<void()>& prepare) {
  helpers_.reserve(helpers);
  try {
    while (helpers_.size() < helpers)
      helpers_.emplace_back([this, prepare] {
        prepare();
        help();
      });
  } catch (const std::system_error&) {
    return;  // the work is done by fewer
  }
}

SharedWork::~SharedWork() {
  end();
  for (std::thread& helper : helpers_) helper.join();
}

void SharedWork::run(size_t lanes, const std::function<void(size_t lane)>& task) {
  if (lanes > 1) {
    const std::lock_guard lock(mutex_);
    task_ = &task;
    lanes_ = lanes;
    next_lane_ = 1;
    changed_.notify_all();
  }
  task(0);
  if (lanes <= 1) return;
  std::unique_lock lock(mutex_);
  task_ = nullptr;
  changed_.wait(lock, [this] { return helping_ == 0; });
}

void SharedWork::end() {
  const std::lock_guard lock(mutex_);
  ended_ = true;
  changed_.notify_all();
}

void SharedWork::help() {
  std::unique_lock lock(mutex_);
  for (;;) {
    changed_.wait(lock, [this] { return ended_ || (task_ != nullptr && next_lane_ < lanes_); });
    if (ended_) return;
    const auto& task = *task_;
    const size_t lane = next_lane_++;
    ++helping_;
    lock.unlock();
    task(lane);
    lock.lock();
    if (--helping_ == 0) changed_.notify_all();
  }
}

}  // namespace godwit
