#include "transport/rdma/completion_queue.h"

#include <fcntl.h>

#include "transport/rdma/registered_ring.h"

namespace godwit::transport {
namespace {
constexpr size_t kReapedAtOnce = 64;
}  // namespace

Result<CompletionQueue> CompletionQueue::create(ibv_context* device, uint32_t entries) {
  const char* const name = ::ibv_get_device_name(device->device);
  ibv_comp_channel* const channel = ::ibv_create_comp_channel(device);
  if (channel == nullptr) return fail("make a completion channel on", name);
  CompletionQueue made(channel, nullptr);
  const int flags = ::fcntl(channel->fd, F_GETFL);
  if (flags < 0 || ::fcntl(channel->fd, F_SETFL, flags | O_NONBLOCK) != 0)
    return fail("set non-blocking mode on", "a completion channel");
  made.queue_.reset(::ibv_create_cq(device, static_cast<int>(entries), nullptr, channel, 0));
  if (!made.queue_)
    return fail("make a completion queue on", name, errno, hint_of_registration(errno, entries * 64));
  return made;
}

Result<void> CompletionQueue::reap(std::vector<ibv_wc>& completions) const {
  completions.resize(kReapedAtOnce);
  const int count = ::ibv_poll_cq(queue_.get(), static_cast<int>(completions.size()), completions.data());
  completions.resize(count < 0 ? 0 : static_cast<size_t>(count));
  if (count < 0) return fail("poll", "the completion queue of the link", EIO);
  return {};
}

Result<void> CompletionQueue::arm() const {
  const int code = ::ibv_req_notify_cq(queue_.get(), 0);
  if (code != 0) return fail("arm", "the completion queue of the link", code);
  return {};
}

void CompletionQueue::clear_notifications() const {
  ibv_cq* queue = nullptr;
  void* context = nullptr;
  unsigned count = 0;
  while (::ibv_get_cq_event(channel_.get(), &queue, &context) == 0) ++count;
  if (count > 0) ::ibv_ack_cq_events(queue_.get(), count);
}

}  // namespace godwit::transport
