#include "transport/rdma/rdma_receiver.h"

#include <sys/eventfd.h>
#include <unistd.h>

#include <chrono>

#include "base/clock.h"
#include "transport/deadline.h"
#include "transport/names.h"

namespace godwit::transport {
namespace {

constexpr useconds_t kRoomPauseUs = 50;

}  // namespace

RdmaReceiver::RdmaReceiver(std::unique_ptr<RdmaEndpoint> endpoint)
    : endpoint_(std::move(endpoint)), name_("rdma+" + endpoint_->device()) {
  streams_.resize(endpoint_->options().streams);
  for (Stream& stream : streams_) stream.taken.resize(endpoint_->options().buffers_per_stream);
}

Result<std::unique_ptr<LinkReceiver>> RdmaReceiver::create(std::unique_ptr<RdmaEndpoint> endpoint) {
  std::unique_ptr<RdmaReceiver> made(new RdmaReceiver(std::move(endpoint)));
  made->over_ = Fd(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!made->over_.valid()) return fail("make an eventfd for", "the link");
  return made;
}

RdmaReceiver::~RdmaReceiver() {
  endpoint_->disconnect();
}

void RdmaReceiver::note(Error error) {
  if (error_ || closed_streams_ == streams_.size()) return;
  error_ = std::move(error);
  endpoint_->disconnect();
  ::eventfd_write(over_.get(), 1);
  changed_.notify_all();
}

void RdmaReceiver::end(Error error) {
  if (error_) return;
  ready_.clear();
  error_ = std::move(error);
  endpoint_->disconnect();
  ::eventfd_write(over_.get(), 1);
  changed_.notify_all();
}

void RdmaReceiver::cancel() {
  const std::lock_guard lock(mutex_);
  end(fail("receive from", endpoint_->peer(), ECANCELED).error());
}

Result<std::optional<LinkReceiver::Batch>> RdmaReceiver::receive() {
  Lock lock(mutex_);
  for (;;) {
    if (!ready_.empty()) {
      const Batch batch = ready_.front();
      ready_.pop_front();
      return batch;
    }
    if (error_) return std::unexpected(*error_);
    if (closed_streams_ == streams_.size()) return std::nullopt;
    if (has_passed(deadline_ns_))
      end(fail("receive from", endpoint_->peer(), ETIMEDOUT, "the deadline has passed").error());
    else if (leading_)
      wait_for_leader(lock);
    else
      lead(lock);
  }
}

void RdmaReceiver::wait_for_leader(Lock& lock) {
  const int64_t until_ns = earlier(deadline_ns_, monotonic_ns() + kProbeNs);
  changed_.wait_for(lock, std::chrono::nanoseconds(until_ns - monotonic_ns()));
}

bool RdmaReceiver::has_news() const {
  return !ready_.empty() || error_ || closed_streams_ == streams_.size();
}

void RdmaReceiver::lead(Lock& lock) {
  leading_ = true;
  const int64_t begun_ns = monotonic_ns();
  Result<void> led;
  do {
    led = drain();
    if (!led || has_news()) break;
    lock.unlock();
    lock.lock();
  } while (monotonic_ns() - begun_ns < kSpinNs);
  if (led && !has_news()) led = endpoint_->arm();
  if (led && !has_news()) led = drain();
  if (led && !has_news()) led = sleep(lock, begun_ns);
  if (!led) note(led.error());
  leading_ = false;
  changed_.notify_all();
}

Result<void> RdmaReceiver::sleep(Lock& lock, int64_t begun_ns) {
  const int64_t until_ns = earlier(deadline_ns_, begun_ns + kProbeNs);
  lock.unlock();
  auto slept = endpoint_->sleep(until_ns, over_.get());
  lock.lock();
  GODWIT_TRY(std::move(slept));
  // What had arrived before the connection ended has arrived.
  GODWIT_ASSIGN(const auto over, endpoint_->look_at_connections());
  GODWIT_TRY(drain());
  if (over) return std::unexpected(*over);
  if (!has_news() && monotonic_ns() - begun_ns >= kProbeNs) return probe();
  return {};
}

Result<void> RdmaReceiver::probe() {
  for (uint32_t i = 0; i < streams_.size(); ++i) {
    Stream& stream = streams_[i];
    if (stream.probing || stream.closed || stream.sends == endpoint_->sends_max()) continue;
    stream.probing = true;
    ++stream.sends;
    GODWIT_TRY(endpoint_->post_probe(i));
  }
  return {};
}

Result<void> RdmaReceiver::drain() {
  do {
    GODWIT_TRY(endpoint_->reap(completions_));
    for (const ibv_wc& completion : completions_) GODWIT_TRY(handle(completion));
  } while (!completions_.empty());
  return {};
}

Result<void> RdmaReceiver::handle(const ibv_wc& completion) {
  const Work work = work_of(completion);
  Stream& stream = streams_[work.stream];
  if (work.kind != WorkKind::kReceive) --stream.sends;
  if (work.kind == WorkKind::kProbe) stream.probing = false;
  // The source may go once it has closed a stream: what it does not take from us then, it does not miss.
  if (completion.status != IBV_WC_SUCCESS && stream.closed) return {};
  if (completion.status != IBV_WC_SUCCESS) return std::unexpected(endpoint_->failure_of(completion));
  return work.kind == WorkKind::kReceive ? take_message(work.stream, completion) : Result<void>{};
}

Result<void> RdmaReceiver::take_message(uint32_t stream, const ibv_wc& completion) {
  const auto malformed = [this](std::string why) {
    return fail("read a message of", endpoint_->peer(), EPROTO, std::move(why));
  };
  const auto message =
      (completion.wc_flags & IBV_WC_WITH_IMM) != 0 ? unpack(completion.imm_data) : std::nullopt;
  if (!message) return malformed("its immediate is none of this protocol's");
  if (message->stream != stream || streams_[stream].closed)
    return malformed("it names another stream, or comes after the close");
  if (message->kind == MessageKind::kBatch && completion.opcode == IBV_WC_RECV_RDMA_WITH_IMM)
    return take_batch(stream, message->slot, completion.byte_len);
  if (message->kind != MessageKind::kClose || completion.opcode != IBV_WC_RECV)
    return malformed("it is neither a batch nor a close");
  streams_[stream].closed = true;
  ++closed_streams_;
  return {};
}

Result<void> RdmaReceiver::take_batch(uint32_t stream, uint32_t slot, uint32_t size) {
  Stream& own = streams_[stream];
  const LinkOptions& options = endpoint_->options();
  if (slot >= own.taken.size() || own.taken[slot])
    return fail("read a message of", endpoint_->peer(), EPROTO, "a batch for which there is no credit");
  if (size == 0 || size > options.buffer_bytes)
    return fail("read a message of", endpoint_->peer(), EPROTO,
                "a batch of " + std::to_string(size) + " bytes, where a buffer has " +
                    std::to_string(options.buffer_bytes));
  GODWIT_TRY(endpoint_->post_receive(stream));
  own.taken[slot] = true;
  ready_.push_back(
      {.bytes = endpoint_->ring().slot(stream, slot).first(size), .index = slot, .stream = stream});
  bytes_ += size;
  ++batches_;
  return {};
}

Result<void> RdmaReceiver::release(const Batch& batch) {
  Lock lock(mutex_);
  if (error_) return std::unexpected(*error_);
  if (batch.stream >= streams_.size() || batch.index >= endpoint_->options().buffers_per_stream)
    return fail("release a batch of", stream_name(batch.stream), EINVAL, "no such batch");
  Stream& stream = streams_[batch.stream];
  if (!stream.taken[batch.index])
    return fail("release a batch of", stream_name(batch.stream), EINVAL, "it has been released before");
  stream.taken[batch.index] = false;
  auto sent = send_credit(lock, batch.stream, batch.index);
  if (!sent) note(sent.error());
  return sent;
}

Result<void> RdmaReceiver::send_credit(Lock& lock, uint32_t stream, uint32_t slot) {
  Stream& own = streams_[stream];
  // One send is left for a probe. It waits only if acknowledgements are late.
  while (own.sends + 1 >= endpoint_->sends_max() && !own.closed) {
    GODWIT_TRY(drain());
    if (own.sends + 1 < endpoint_->sends_max()) break;
    if (has_passed(deadline_ns_)) return fail("release a batch of", stream_name(stream), ETIMEDOUT);
    lock.unlock();
    ::usleep(kRoomPauseUs);
    lock.lock();
    if (error_) return std::unexpected(*error_);
  }
  if (own.closed) return {};
  ++own.sends;
  return endpoint_->post_message(stream, {.kind = MessageKind::kCredit,
                                          .stream = static_cast<uint8_t>(stream),
                                          .slot = static_cast<uint8_t>(slot)});
}

}  // namespace godwit::transport
