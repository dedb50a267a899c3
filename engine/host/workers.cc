#include "engine/host/workers.h"

namespace godwit::engine {

Result<std::unique_ptr<Workers::Entry>> Workers::start(const model::WorkerOrder& order, Fd connection) {
  const auto ending = [] { return refuse("start", "a worker", "the agent is ending"); };
  {
    const std::lock_guard lock(mutex_);
    if (ending_) return ending();
  }
  GODWIT_ASSIGN(auto worker, WorkerProcess::start(order, std::move(connection)));
  std::unique_ptr<Entry> entry(new Entry(*this, std::move(worker)));
  const std::lock_guard lock(mutex_);
  entries_.insert(entry.get());
  if (ending_) entry->worker().cancel();
  return entry;
}

size_t Workers::end(std::chrono::milliseconds patience) {
  std::unique_lock lock(mutex_);
  ending_ = true;
  for (Entry* entry : entries_) entry->worker().cancel();
  changed_.wait_for(lock, patience, [this] { return entries_.empty(); });
  return entries_.size();
}

// The worker itself, which is waited for, goes afterwards.
Workers::Entry::~Entry() {
  const std::lock_guard lock(list_.mutex_);
  list_.entries_.erase(this);
  list_.changed_.notify_all();
}

}  // namespace godwit::engine
