// RdmaReceiver: the target's end of an RDMA link, used by several threads at once.
//
// One thread in receive() leads: it polls the completion queue, sleeps on it, and puts what has come into
// `ready_`; the others wait until there is something for them or nobody leads. Threads that release batches
// drain the queue too, when they need room for their credits.
#pragma once

#include <atomic>
#include <condition_variable>
#include <deque>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "base/fd.h"
#include "transport/link.h"
#include "transport/rdma/rdma_endpoint.h"

namespace godwit::transport {

class RdmaReceiver final : public LinkReceiver {
 public:
  // All streams are connected.
  static Result<std::unique_ptr<LinkReceiver>> create(std::unique_ptr<RdmaEndpoint> endpoint);
  RdmaReceiver(const RdmaReceiver&) = delete;
  RdmaReceiver& operator=(const RdmaReceiver&) = delete;
  ~RdmaReceiver() override;

  [[nodiscard]] const char* name() const override { return name_.c_str(); }
  void set_deadline_ns(int64_t deadline_ns) override { deadline_ns_ = deadline_ns; }
  Result<std::optional<Batch>> receive() override;
  Result<void> release(const Batch& batch) override;
  void cancel() override;
  [[nodiscard]] LinkCounters counters() const override {
    return {.bytes = bytes_.load(), .batches = batches_.load()};
  }

 private:
  using Lock = std::unique_lock<std::mutex>;
  struct Stream {
    std::vector<bool> taken;  // per slot: full, or the caller's
    uint32_t sends = 0;       // that have not completed
    bool probing = false;
    bool closed = false;
  };

  explicit RdmaReceiver(std::unique_ptr<RdmaEndpoint> endpoint);
  // All of these are called with the mutex held. lead() gives it up while it waits.
  void lead(Lock& lock);
  void wait_for_leader(Lock& lock);
  [[nodiscard]] bool has_news() const;
  // After the batches that have come, receive() returns this.
  void note(Error error);
  // At once, whatever has come.
  void end(Error error);
  Result<void> drain();
  Result<void> handle(const ibv_wc& completion);
  Result<void> take_message(uint32_t stream, const ibv_wc& completion);
  Result<void> take_batch(uint32_t stream, uint32_t slot, uint32_t size);
  Result<void> sleep(Lock& lock, int64_t begun_ns);
  Result<void> probe();
  Result<void> send_credit(Lock& lock, uint32_t stream, uint32_t slot);

  std::unique_ptr<RdmaEndpoint> endpoint_;
  std::string name_;
  Fd over_;  // eventfd, wakes the leader for ever once the link has ended
  std::atomic<int64_t> deadline_ns_ = 0;
  std::atomic<uint64_t> bytes_ = 0;
  std::atomic<uint64_t> batches_ = 0;

  std::mutex mutex_;
  std::condition_variable changed_;
  // Under mutex_.
  std::vector<Stream> streams_;
  std::vector<ibv_wc> completions_;
  std::deque<Batch> ready_;
  std::optional<Error> error_;
  uint32_t closed_streams_ = 0;
  bool leading_ = false;
};

}  // namespace godwit::transport
