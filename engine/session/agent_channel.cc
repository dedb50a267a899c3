#include "engine/session/agent_channel.h"

#include <spdlog/spdlog.h>

#include "base/clock.h"
#include "engine/protocol/framing.h"

namespace godwit::engine {
namespace {
constexpr int64_t kPatienceNs = 5'000'000'000;
}

Result<model::WorkerOrder> AgentChannel::receive_order() {
  model::WorkerOrder order;
  GODWIT_TRY(receive_message(socket_.get(), order, monotonic_ns() + kPatienceNs));
  return order;
}

void AgentChannel::report(const model::WorkerReport& report) {
  if (auto sent = send_message(socket_.get(), report, monotonic_ns() + kPatienceNs); !sent)
    spdlog::warn("report to the agent: {}", sent.error().to_string());
}

Result<void> AgentChannel::await_kept() {
  for (;;) {
    GODWIT_ASSIGN(const model::WorkerOrder order, receive_order());
    if (order.has_kept()) return {};
    // It came too late: there is nothing left to cancel.
    if (!order.has_cancel()) return refuse("await", "the agent's word", "it sent an order that was not due");
  }
}

Result<void> AgentChannel::why_interrupted() {
  model::WorkerOrder order;
  if (!receive_message(socket_.get(), order, monotonic_ns() + kPatienceNs))
    return refuse("migrate", "this container", "the agent of this host ended");
  if (order.has_cancel()) return fail("migrate", "this container", ECANCELED, "cancelled by its user");
  return refuse("migrate", "this container", "the agent sent an order that was not due");
}

}  // namespace godwit::engine
