// CompletionQueue: where an adapter reports what has become of posted work. Polled, or slept on through its
// channel of notifications.
//
// Threads: reap() by several at once; arm(), fd() and clear_notifications() by one at a time.
#pragma once

#include <infiniband/verbs.h>

#include <memory>
#include <vector>

#include "base/result.h"

namespace godwit::transport {

class CompletionQueue {
 public:
  // Room for so many completions that have not been reaped; more would be lost, and the queue with them.
  static Result<CompletionQueue> create(ibv_context* device, uint32_t entries);
  [[nodiscard]] ibv_cq* get() const { return queue_.get(); }
  // For poll(2): readable once a completion has come after arm(), until clear_notifications().
  [[nodiscard]] int fd() const { return channel_->fd; }
  // Replaces `completions` by what is there, without waiting.
  Result<void> reap(std::vector<ibv_wc>& completions) const;
  // Asks for a notification of the next completion. What came before is not notified: reap() once more.
  Result<void> arm() const;
  void clear_notifications() const;

 private:
  using Channel = std::unique_ptr<ibv_comp_channel, decltype(&::ibv_destroy_comp_channel)>;
  using Queue = std::unique_ptr<ibv_cq, decltype(&::ibv_destroy_cq)>;
  CompletionQueue(ibv_comp_channel* channel, ibv_cq* queue)
      : channel_(channel, &::ibv_destroy_comp_channel), queue_(queue, &::ibv_destroy_cq) {}
  Channel channel_;
  Queue queue_;
};

}  // namespace godwit::transport
