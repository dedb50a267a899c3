#include "transport/fake/fake_link.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <string>
#include <vector>

#include "base/clock.h"
#include "transport/deadline.h"
#include "transport/link_options.h"

namespace godwit::transport {
namespace {

constexpr const char* kLink = "the fake link";

// What both ends share. Every member function takes the mutex for itself, but the private ones, which are
// called under it.
class Wire {
 public:
  Wire(const LinkOptions& options, const FakeFaults& faults);

  Result<LinkSender::Buffer> acquire(uint32_t stream, int64_t deadline_ns);
  Result<void> submit(const LinkSender::Buffer& buffer, uint32_t size, int64_t deadline_ns);
  Result<void> barrier(uint64_t token, int64_t deadline_ns);
  void close();
  [[nodiscard]] LinkCounters submitted();

  Result<std::optional<LinkReceiver::Batch>> receive(int64_t deadline_ns);
  Result<void> release(const LinkReceiver::Batch& batch);
  void cancel(int code);
  [[nodiscard]] LinkCounters received();

  [[nodiscard]] uint32_t streams() const { return options_.streams; }

 private:
  enum class Owner : uint8_t { kFree, kSender, kWire, kReceiver };
  struct Slot {
    Owner owner = Owner::kFree;
    std::vector<std::byte> memory;
  };
  struct Arrival {
    uint32_t stream = 0;
    uint32_t index = 0;
    uint32_t size = 0;
    int64_t due_ns = 0;
  };

  void wait(std::unique_lock<std::mutex>& lock, int64_t until_ns);
  std::unexpected<Error> end(std::optional<Error>& side, Error error);
  Result<void> check_sender(const std::string& operation, int64_t deadline_ns);
  Slot* find(uint32_t stream, uint32_t index);
  [[nodiscard]] bool all_released() const;
  LinkReceiver::Batch deliver();

  const LinkOptions options_;
  const FakeFaults faults_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<std::vector<Slot>> slots_;  // by stream, by index
  std::deque<Arrival> on_the_way_;        // of all streams: the delay is the same for all
  LinkCounters submitted_;
  LinkCounters received_;
  std::optional<Error> sender_error_;
  std::optional<Error> receiver_error_;
  bool cut_ = false;
  bool closed_ = false;
};

Wire::Wire(const LinkOptions& options, const FakeFaults& faults)
    : options_(options), faults_(faults), slots_(options.streams), cut_(faults.cut_after == 0U) {
  for (auto& slots : slots_) {
    slots.resize(options.buffers_per_stream);
    for (Slot& slot : slots) slot.memory.resize(options.buffer_bytes);
  }
}

void Wire::wait(std::unique_lock<std::mutex>& lock, int64_t until_ns) {
  if (until_ns == 0)
    changed_.wait(lock);
  else
    changed_.wait_for(lock, std::chrono::nanoseconds(std::max<int64_t>(until_ns - monotonic_ns(), 0)));
}

// An error of one end is a cut for the other.
std::unexpected<Error> Wire::end(std::optional<Error>& side, Error error) {
  if (!side) side = std::move(error);
  cut_ = true;
  changed_.notify_all();
  return std::unexpected(*side);
}

Result<void> Wire::check_sender(const std::string& operation, int64_t deadline_ns) {
  if (sender_error_) return std::unexpected(*sender_error_);
  if (cut_) return end(sender_error_, fail(operation, kLink, ECONNRESET, "the link is cut").error());
  if (has_passed(deadline_ns))
    return end(sender_error_, fail(operation, kLink, ETIMEDOUT, "the deadline has passed").error());
  return {};
}

Wire::Slot* Wire::find(uint32_t stream, uint32_t index) {
  const bool exists = stream < options_.streams && index < options_.buffers_per_stream;
  return exists ? &slots_[stream][index] : nullptr;
}

Result<LinkSender::Buffer> Wire::acquire(uint32_t stream, int64_t deadline_ns) {
  std::unique_lock lock(mutex_);
  GODWIT_TRY(check_sender("get a buffer of", deadline_ns));
  if (stream >= options_.streams) return fail("get a buffer of", kLink, EINVAL, "no such stream");
  std::vector<Slot>& slots = slots_[stream];
  for (;;) {
    const auto slot =
        std::find_if(slots.begin(), slots.end(), [](const Slot& each) { return each.owner == Owner::kFree; });
    if (slot != slots.end()) {
      slot->owner = Owner::kSender;
      return LinkSender::Buffer{
          .memory = slot->memory, .index = static_cast<uint32_t>(slot - slots.begin()), .stream = stream};
    }
    wait(lock, deadline_ns);
    GODWIT_TRY(check_sender("wait for a buffer of", deadline_ns));
  }
}

Result<void> Wire::submit(const LinkSender::Buffer& buffer, uint32_t size, int64_t deadline_ns) {
  const std::lock_guard lock(mutex_);
  GODWIT_TRY(check_sender("send on", deadline_ns));
  Slot* const slot = find(buffer.stream, buffer.index);
  if (slot == nullptr || slot->owner != Owner::kSender)
    return fail("send on", kLink, EINVAL, "the buffer has not been acquired");
  if (size == 0 || size > options_.buffer_bytes)
    return fail("send on", kLink, EINVAL, "a batch of this size does not fit");
  slot->owner = Owner::kWire;
  if (faults_.corrupt == submitted_.batches) slot->memory[size / 2] ^= std::byte{0xff};
  on_the_way_.push_back({.stream = buffer.stream,
                         .index = buffer.index,
                         .size = size,
                         .due_ns = faults_.delay_ns == 0 ? 0 : monotonic_ns() + faults_.delay_ns});
  submitted_.bytes += size;
  ++submitted_.batches;
  if (faults_.cut_after == submitted_.batches) cut_ = true;
  changed_.notify_all();
  return {};
}

Result<void> Wire::barrier(uint64_t token, int64_t deadline_ns) {
  const std::string operation = "wait for barrier " + std::to_string(token) + " on";
  std::unique_lock lock(mutex_);
  GODWIT_TRY(check_sender(operation, deadline_ns));
  while (!all_released()) {
    wait(lock, deadline_ns);
    GODWIT_TRY(check_sender(operation, deadline_ns));
  }
  return {};
}

bool Wire::all_released() const {
  const auto is_released = [](const Slot& slot) {
    return slot.owner == Owner::kFree || slot.owner == Owner::kSender;
  };
  return std::all_of(slots_.begin(), slots_.end(), [&](const std::vector<Slot>& slots) {
    return std::all_of(slots.begin(), slots.end(), is_released);
  });
}

void Wire::close() {
  const std::lock_guard lock(mutex_);
  closed_ = !cut_;
  changed_.notify_all();
}

LinkCounters Wire::submitted() {
  const std::lock_guard lock(mutex_);
  return submitted_;
}

// What is on the way arrives before the end of the link does.
Result<std::optional<LinkReceiver::Batch>> Wire::receive(int64_t deadline_ns) {
  std::unique_lock lock(mutex_);
  for (;;) {
    if (receiver_error_) return std::unexpected(*receiver_error_);
    if (on_the_way_.empty() && closed_) return std::nullopt;
    if (has_passed(deadline_ns))
      return end(receiver_error_, fail("receive from", kLink, ETIMEDOUT, "the deadline has passed").error());
    int64_t until_ns = deadline_ns;
    if (!on_the_way_.empty()) {
      const int64_t due_ns = on_the_way_.front().due_ns;
      if (due_ns <= monotonic_ns()) return deliver();
      until_ns = deadline_ns == 0 ? due_ns : std::min(deadline_ns, due_ns);
    } else if (cut_) {
      return end(receiver_error_, fail("receive from", kLink, ECONNRESET, "the link is cut").error());
    }
    wait(lock, until_ns);
  }
}

LinkReceiver::Batch Wire::deliver() {
  const Arrival arrival = on_the_way_.front();
  on_the_way_.pop_front();
  Slot& slot = slots_[arrival.stream][arrival.index];
  slot.owner = Owner::kReceiver;
  received_.bytes += arrival.size;
  ++received_.batches;
  return {
      .bytes = std::span(slot.memory).first(arrival.size), .index = arrival.index, .stream = arrival.stream};
}

Result<void> Wire::release(const LinkReceiver::Batch& batch) {
  const std::lock_guard lock(mutex_);
  if (receiver_error_) return std::unexpected(*receiver_error_);
  Slot* const slot = find(batch.stream, batch.index);
  if (slot == nullptr || slot->owner != Owner::kReceiver)
    return fail("release a batch of", kLink, EINVAL, "it is not the receiver's");
  slot->owner = Owner::kFree;
  changed_.notify_all();
  return {};
}

void Wire::cancel(int code) {
  const std::lock_guard lock(mutex_);
  static_cast<void>(end(receiver_error_, fail("receive from", kLink, code).error()));
}

LinkCounters Wire::received() {
  const std::lock_guard lock(mutex_);
  return received_;
}

class FakeSender final : public LinkSender {
 public:
  explicit FakeSender(std::shared_ptr<Wire> wire) : wire_(std::move(wire)) {}
  FakeSender(const FakeSender&) = delete;
  FakeSender& operator=(const FakeSender&) = delete;
  ~FakeSender() override { wire_->close(); }
  [[nodiscard]] const char* name() const override { return "fake"; }
  [[nodiscard]] uint32_t streams() const override { return wire_->streams(); }
  void set_deadline_ns(int64_t deadline_ns) override { deadline_ns_ = deadline_ns; }
  Result<Buffer> acquire(uint32_t stream) override { return wire_->acquire(stream, deadline_ns_); }
  Result<void> submit(const Buffer& buffer, uint32_t size) override {
    return wire_->submit(buffer, size, deadline_ns_);
  }
  Result<void> barrier(uint64_t token) override { return wire_->barrier(token, deadline_ns_); }
  [[nodiscard]] LinkCounters counters() const override { return wire_->submitted(); }

 private:
  std::shared_ptr<Wire> wire_;
  int64_t deadline_ns_ = 0;
};

class FakeReceiver final : public LinkReceiver {
 public:
  explicit FakeReceiver(std::shared_ptr<Wire> wire) : wire_(std::move(wire)) {}
  FakeReceiver(const FakeReceiver&) = delete;
  FakeReceiver& operator=(const FakeReceiver&) = delete;
  ~FakeReceiver() override { wire_->cancel(ECONNRESET); }
  [[nodiscard]] const char* name() const override { return "fake"; }
  void set_deadline_ns(int64_t deadline_ns) override { deadline_ns_ = deadline_ns; }
  Result<std::optional<Batch>> receive() override { return wire_->receive(deadline_ns_); }
  Result<void> release(const Batch& batch) override { return wire_->release(batch); }
  void cancel() override { wire_->cancel(ECANCELED); }
  [[nodiscard]] LinkCounters counters() const override { return wire_->received(); }

 private:
  std::shared_ptr<Wire> wire_;
  std::atomic<int64_t> deadline_ns_ = 0;
};

}  // namespace

Result<FakeLink> make_fake_link(const LinkOptions& options, const FakeFaults& faults) {
  GODWIT_TRY(check_options(options));
  const auto wire = std::make_shared<Wire>(options, faults);
  return FakeLink{.sender = std::make_unique<FakeSender>(wire),
                  .receiver = std::make_unique<FakeReceiver>(wire)};
}

}  // namespace godwit::transport
