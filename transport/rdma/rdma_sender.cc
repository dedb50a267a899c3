#include "transport/rdma/rdma_sender.h"

#include <algorithm>

#include "base/clock.h"
#include "transport/deadline.h"
#include "transport/names.h"
#include "transport/rdma/rdma_link.h"

namespace godwit::transport {
RdmaSender::RdmaSender(std::unique_ptr<RdmaEndpoint> endpoint, const std::vector<RdmaWelcome>& rings)
    : endpoint_(std::move(endpoint)), name_("rdma+" + endpoint_->device()) {
  for (const RdmaWelcome& ring : rings) {
    Stream& stream = streams_.emplace_back();
    stream.ring = ring;
    stream.slots.resize(endpoint_->options().buffers_per_stream);
  }
}

RdmaSender::~RdmaSender() {
  if (!error_) static_cast<void>(close_in_order());
  endpoint_->disconnect();
}

std::unexpected<Error> RdmaSender::end(Error error) {
  if (!error_) {
    error_ = std::move(error);
    endpoint_->disconnect();
  }
  return std::unexpected(*error_);
}

Result<void> RdmaSender::check(const char* operation) {
  if (error_) return std::unexpected(*error_);
  if (has_passed(deadline_ns_))
    return end(fail(operation, "the link", ETIMEDOUT, "the deadline has passed").error());
  return {};
}

Result<LinkSender::Buffer> RdmaSender::acquire(uint32_t stream) {
  GODWIT_TRY(check("get a buffer of"));
  if (stream >= streams_.size())
    return fail("get a buffer of", stream_name(stream), EINVAL, "no such stream");
  GODWIT_TRY(pump(false));
  std::vector<Slot>& slots = streams_[stream].slots;
  for (;;) {
    const auto free = std::ranges::find_if(
        slots, [](const Slot& slot) { return slot.owner == Owner::kLink && !slot.in_flight; });
    if (free != slots.end()) {
      free->owner = Owner::kCaller;
      const auto index = static_cast<uint32_t>(free - slots.begin());
      return Buffer{.memory = endpoint_->ring().slot(stream, index), .index = index, .stream = stream};
    }
    GODWIT_TRY(pump(true));
    GODWIT_TRY(check("wait for a buffer of"));
  }
}

Result<void> RdmaSender::submit(const Buffer& buffer, uint32_t size) {
  GODWIT_TRY(check("send on"));
  if (buffer.stream >= streams_.size() || buffer.index >= endpoint_->options().buffers_per_stream)
    return fail("send on", stream_name(buffer.stream), EINVAL, "no such buffer");
  Stream& stream = streams_[buffer.stream];
  Slot& slot = stream.slots[buffer.index];
  if (slot.owner != Owner::kCaller)
    return fail("send on", stream_name(buffer.stream), EINVAL, "the buffer has not been acquired");
  if (size == 0 || size > endpoint_->options().buffer_bytes)
    return fail("send on", stream_name(buffer.stream), EINVAL, "a batch of this size does not fit");
  slot = {.owner = Owner::kTarget, .in_flight = true};
  ++stream.unreleased;
  counters_.bytes += size;
  ++counters_.batches;
  if (auto posted = endpoint_->post_batch(buffer.stream, buffer.index, size, stream.ring); !posted)
    return end(posted.error());
  return pump(false);
}

Result<void> RdmaSender::barrier(uint64_t token) {
  const std::string operation = "wait for barrier " + std::to_string(token) + " on";
  GODWIT_TRY(check(operation.c_str()));
  GODWIT_TRY(pump(false));
  const auto is_released = [](const Stream& stream) { return stream.unreleased == 0; };
  while (!std::ranges::all_of(streams_, is_released)) {
    GODWIT_TRY(pump(true));
    GODWIT_TRY(check(operation.c_str()));
  }
  return {};
}

Result<void> RdmaSender::pump(bool waiting) {
  Result<void> done;
  if (waiting)
    done = wait_and_drain();
  else if (auto drained = drain(); !drained)
    done = std::unexpected(drained.error());
  if (!done) return end(done.error());
  return {};
}

Result<bool> RdmaSender::drain() {
  GODWIT_TRY(endpoint_->reap(completions_));
  for (const ibv_wc& completion : completions_) GODWIT_TRY(handle(completion));
  return !completions_.empty();
}

// At most kProbeNs at a time.
Result<void> RdmaSender::wait_and_drain() {
  const int64_t begun_ns = monotonic_ns();
  do {
    GODWIT_ASSIGN(const bool drained, drain());
    if (drained) return {};
  } while (monotonic_ns() - begun_ns < kSpinNs);
  GODWIT_TRY(endpoint_->arm());
  GODWIT_ASSIGN(bool drained, drain());
  if (drained) return {};
  GODWIT_TRY(endpoint_->sleep(earlier(deadline_ns_, begun_ns + kProbeNs), -1));
  // What had arrived before the connection ended has arrived.
  GODWIT_ASSIGN(const auto over, endpoint_->look_at_connections());
  GODWIT_ASSIGN(drained, drain());
  if (over) return std::unexpected(*over);
  if (!drained && monotonic_ns() - begun_ns >= kProbeNs) return probe();
  return {};
}

Result<void> RdmaSender::probe() {
  for (uint32_t i = 0; i < streams_.size(); ++i) {
    if (streams_[i].probing) continue;
    streams_[i].probing = true;
    GODWIT_TRY(endpoint_->post_probe(i));
  }
  return {};
}

Result<void> RdmaSender::handle(const ibv_wc& completion) {
  const Work work = work_of(completion);
  if (completion.status != IBV_WC_SUCCESS) return std::unexpected(endpoint_->failure_of(completion));
  Stream& stream = streams_[work.stream];
  switch (work.kind) {
    case WorkKind::kBatch:
      stream.slots[work.slot].in_flight = false;
      return {};
    case WorkKind::kReceive:
      return take_credit(work.stream, completion);
    case WorkKind::kProbe:
      stream.probing = false;
      return {};
    case WorkKind::kMessage:
      stream.closed = true;
      return {};
    case WorkKind::kInvalid:
      break;
  }
  return fail("read a completion of", endpoint_->device(), EPROTO);
}

Result<void> RdmaSender::take_credit(uint32_t stream, const ibv_wc& completion) {
  Stream& own = streams_[stream];
  const bool is_message = completion.opcode == IBV_WC_RECV && (completion.wc_flags & IBV_WC_WITH_IMM) != 0;
  const auto message = is_message ? unpack(completion.imm_data) : std::nullopt;
  if (!message || message->kind != MessageKind::kCredit || message->stream != stream)
    return fail("read a message of", endpoint_->peer(), EPROTO, "something else than a credit");
  if (message->slot >= own.slots.size() || own.slots[message->slot].owner != Owner::kTarget)
    return fail("read a message of", endpoint_->peer(), EPROTO, "a credit for a batch that it does not have");
  own.slots[message->slot].owner = Owner::kLink;
  --own.unreleased;
  return endpoint_->post_receive(stream);
}

// The adapter's acknowledgement of the close says that everything before it has arrived.
Result<void> RdmaSender::close_in_order() {
  deadline_ns_ = earlier(deadline_ns_, monotonic_ns() + int64_t{kRdmaCloseWaitMs} * 1'000'000);
  for (uint32_t i = 0; i < streams_.size(); ++i)
    GODWIT_TRY(endpoint_->post_message(
        i, {.kind = MessageKind::kClose, .stream = static_cast<uint8_t>(i), .slot = 0}));
  while (!std::ranges::all_of(streams_, &Stream::closed)) {
    GODWIT_TRY(check("close"));
    GODWIT_TRY(pump(true));
  }
  return {};
}

}  // namespace godwit::transport
