#include "engine/target/page_writers.h"

#include <sys/eventfd.h>
#include <unistd.h>

#include <chrono>
#include <cstring>
#include <string>

#include "base/clock.h"
#include "engine/session/priority.h"
#include "engine/session/round_prefix.h"

namespace godwit::engine {
PageWriters::PageWriters(transport::LinkReceiver& link, runtime::PageSink& sink) : link_(link), sink_(sink) {}

PageWriters::~PageWriters() {
  stop();
}

Result<void> PageWriters::start(unsigned threads) {
  failed_ = Fd(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!failed_.valid()) return fail("make an eventfd for", "the page writers");
  for (unsigned i = 0; i < threads; ++i) threads_.emplace_back([this] { work(); });
  return {};
}

void PageWriters::work() {
  {
    const std::lock_guard lock(mutex_);
    tids_.push_back(::gettid());
  }
  adopt_pace(Pace::kBrisk);
  for (;;) {
    auto batch = link_.receive();
    if (!batch) return fail_all(batch.error());
    if (!batch->has_value()) return;
    if (auto stored = store(**batch); !stored) return fail_all(stored.error());
    if (auto released = link_.release(**batch); !released) return fail_all(released.error());
  }
}

Result<void> PageWriters::store(const transport::LinkReceiver::Batch& batch) {
  RoundPrefix prefix;
  if (batch.bytes.size() < sizeof prefix)
    return fail("read a batch of pages from", "the link", EPROTO, "it is shorter than its prefix");
  std::memcpy(&prefix, batch.bytes.data(), sizeof prefix);
  if (prefix.magic != RoundPrefix::kMagic || (prefix.pace != Pace::kIdle && prefix.pace != Pace::kBrisk))
    return fail("read a batch of pages from", "the link", EPROTO, "its prefix is malformed");
  GODWIT_ASSIGN(const bool urgent, wait_open(prefix.round));
  adopt_pace(urgent ? Pace::kUrgent : prefix.pace);
  const auto pages = batch.bytes.subspan(sizeof prefix);
  if (!pages.empty()) GODWIT_TRY(sink_.apply(pages));
  const std::lock_guard lock(mutex_);
  ++stored_;
  changed_.notify_all();
  return {};
}

Result<bool> PageWriters::wait_open(uint32_t round) {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [&] { return stopping_ || open_round_ >= static_cast<int64_t>(round); });
  if (stopping_) return fail("store pages of", "round " + std::to_string(round), ECANCELED);
  if (open_round_ > static_cast<int64_t>(round))
    return fail("store pages of", "round " + std::to_string(round), EPROTO,
                "round " + std::to_string(open_round_) + " has begun already");
  return urgent_;
}

void PageWriters::open_round(uint32_t round, bool urgent) {
  const std::lock_guard lock(mutex_);
  urgent_ = urgent;
  open_round_ = static_cast<int64_t>(round);
  stored_ = 0;
  if (urgent)
    for (const pid_t tid : tids_) urge(tid);
  changed_.notify_all();
}

Result<void> PageWriters::wait_stored(uint32_t round, uint64_t batches, int64_t deadline_ns) {
  std::unique_lock lock(mutex_);
  const auto left = std::chrono::nanoseconds(deadline_ns - monotonic_ns());
  const bool done = changed_.wait_for(lock, left, [&] { return error_.has_value() || stored_ >= batches; });
  if (error_) return std::unexpected(*error_);
  if (!done) return fail("store the pages of", "round " + std::to_string(round), ETIMEDOUT);
  if (stored_ != batches || open_round_ != static_cast<int64_t>(round))
    return fail("store the pages of", "round " + std::to_string(round), EPROTO,
                std::to_string(stored_) + " batches came, " + std::to_string(batches) + " were announced");
  return {};
}

void PageWriters::fail_all(const Error& error) {
  const std::lock_guard lock(mutex_);
  if (!error_ && !stopping_) error_ = error;
  changed_.notify_all();
  const uint64_t one = 1;
  // The counter cannot overflow: each thread adds one, once.
  (void)!::write(failed_.get(), &one, sizeof one);
}

Result<void> PageWriters::failure() const {
  const std::lock_guard lock(mutex_);
  if (error_) return std::unexpected(*error_);
  return {};
}

void PageWriters::stop() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
    changed_.notify_all();
  }
  link_.cancel();
  for (std::thread& thread : threads_) thread.join();
  threads_.clear();
}

}  // namespace godwit::engine
