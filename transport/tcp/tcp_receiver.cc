#include "transport/tcp/tcp_receiver.h"

#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>

#include "transport/names.h"
#include "transport/tcp/socket.h"

namespace godwit::transport {
namespace {

constexpr uint32_t kOverEvent = UINT32_MAX;  // not a stream's

std::unexpected<Error> malformed(std::string why) {
  return fail("read a frame from", kSourceEnd, EPROTO, std::move(why));
}

}  // namespace

TcpReceiver::TcpReceiver(std::vector<Fd> sockets, Arena arena) : arena_(std::move(arena)) {
  for (Fd& socket : sockets) {
    auto stream = std::make_unique<Stream>();
    stream->socket = std::move(socket);
    stream->taken.resize(arena_.options().buffers_per_stream);
    streams_.push_back(std::move(stream));
  }
}

Result<std::unique_ptr<TcpReceiver>> TcpReceiver::create(std::vector<Fd> sockets, const LinkOptions& options,
                                                         TcpIo io) {
  GODWIT_ASSIGN(Arena arena, Arena::create(options));
  std::unique_ptr<TcpReceiver> receiver(new TcpReceiver(std::move(sockets), std::move(arena)));
  GODWIT_TRY(receiver->open(io));
  return receiver;
}

Result<void> TcpReceiver::open(TcpIo io) {
  epoll_ = Fd(::epoll_create1(EPOLL_CLOEXEC));
  if (!epoll_.valid()) return fail("make an epoll instance for", "the link");
  over_ = Fd(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!over_.valid()) return fail("make an eventfd for", "the link");
  epoll_event event{.events = EPOLLIN, .data = {.u32 = kOverEvent}};
  if (::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, over_.get(), &event) != 0)
    return fail("watch", "the eventfd of the link");
  for (uint32_t i = 0; i < streams_.size(); ++i) {
    const int socket = streams_[i]->socket.get();
    GODWIT_ASSIGN(streams_[i]->io, make_socket_io(io, {&socket, 1}, arena_.region(i)));
    GODWIT_TRY(arm(i, EPOLL_CTL_ADD));
  }
  return {};
}

Result<void> TcpReceiver::welcome(int64_t deadline_ns) {
  std::array<std::byte, sizeof(FrameHeader)> frame;
  write_frame(frame, FrameType::kWelcome, 0, kProtocolVersion);
  for (const auto& stream : streams_) GODWIT_TRY(send_all(stream->socket.get(), frame, deadline_ns));
  return {};
}

TcpReceiver::~TcpReceiver() {
  for (const auto& stream : streams_) ::shutdown(stream->socket.get(), SHUT_RDWR);
}

const char* TcpReceiver::name() const {
  return streams_.front()->io->name();
}

Result<void> TcpReceiver::arm(uint32_t stream, int operation) {
  epoll_event event{.events = EPOLLIN | EPOLLONESHOT, .data = {.u32 = stream}};
  if (::epoll_ctl(epoll_.get(), operation, streams_[stream]->socket.get(), &event) != 0)
    return fail("watch", stream_name(stream));
  return {};
}

std::unexpected<Error> TcpReceiver::end(Error error) {
  const std::lock_guard lock(state_mutex_);
  if (!error_) {
    error_ = std::move(error);
    for (const auto& stream : streams_) ::shutdown(stream->socket.get(), SHUT_RDWR);
    ::eventfd_write(over_.get(), 1);
  }
  return std::unexpected(*error_);
}

void TcpReceiver::cancel() {
  static_cast<void>(end(fail("receive from", kSourceEnd, ECANCELED).error()));
}

Result<bool> TcpReceiver::is_over() {
  const std::lock_guard lock(state_mutex_);
  if (error_) return std::unexpected(*error_);
  return closed_streams_ == streams_.size();
}

Result<std::optional<LinkReceiver::Batch>> TcpReceiver::receive() {
  for (;;) {
    GODWIT_ASSIGN(const bool closed, is_over());
    if (closed) return std::nullopt;
    if (has_passed(deadline_ns_))
      return end(fail("receive from", kSourceEnd, ETIMEDOUT, "the deadline has passed").error());
    auto ready = wait_for_stream();
    if (!ready) return end(ready.error());
    if (!ready->has_value()) continue;
    auto batch = read_stream(**ready);
    if (!batch) return end(batch.error());
    if (batch->has_value()) return batch;
  }
}

Result<std::optional<uint32_t>> TcpReceiver::wait_for_stream() {
  epoll_event event{};
  const int count = ::epoll_wait(epoll_.get(), &event, 1, left_ms(deadline_ns_));
  if (count < 0 && errno != EINTR) return fail("wait for", kSourceEnd);
  if (count <= 0 || event.data.u32 == kOverEvent) return std::nullopt;
  return uint32_t{event.data.u32};
}

Result<std::optional<LinkReceiver::Batch>> TcpReceiver::read_stream(uint32_t stream) {
  const FrameBytes bytes = arena_.control(stream).first<sizeof(FrameHeader)>();
  GODWIT_TRY(read_exactly(stream, bytes));
  GODWIT_ASSIGN(const FrameHeader header, read_frame(bytes, kSourceEnd));
  if (header.type == FrameType::kClose) {
    GODWIT_TRY(close_stream(stream, header));
    return std::nullopt;
  }
  if (header.type != FrameType::kBatch) return malformed("a frame that only the target may send");
  GODWIT_ASSIGN(const Batch batch, read_batch(stream, header));
  GODWIT_TRY(arm(stream, EPOLL_CTL_MOD));
  return batch;
}

Result<LinkReceiver::Batch> TcpReceiver::read_batch(uint32_t stream, const FrameHeader& header) {
  Stream& own = *streams_[stream];
  if (header.size == 0 || header.size > arena_.options().buffer_bytes)
    return malformed("a batch of " + std::to_string(header.size) + " bytes, where a buffer has " +
                     std::to_string(arena_.options().buffer_bytes));
  if (header.number != own.received)
    return malformed("batch " + std::to_string(header.number) + " where " + std::to_string(own.received) +
                     " was due");
  GODWIT_ASSIGN(const uint32_t index, take_buffer(own));
  const std::span<std::byte> bytes = arena_.payload(stream, index).first(header.size);
  GODWIT_TRY(read_exactly(stream, bytes));
  ++own.received;
  bytes_ += header.size;
  ++batches_;
  return Batch{.bytes = bytes, .index = index, .stream = stream};
}

Result<uint32_t> TcpReceiver::take_buffer(Stream& stream) {
  const std::lock_guard lock(stream.mutex);
  for (uint32_t i = 0; i < stream.taken.size(); ++i) {
    if (stream.taken[i]) continue;
    stream.taken[i] = true;
    return i;
  }
  return malformed("a batch for which there is no credit");
}

Result<void> TcpReceiver::close_stream(uint32_t stream, const FrameHeader& header) {
  Stream& own = *streams_[stream];
  if (header.number != own.received)
    return malformed("it closes after " + std::to_string(header.number) + " batches, when " +
                     std::to_string(own.received) + " have come");
  {
    const std::lock_guard lock(own.mutex);
    own.closed = true;
  }
  ::shutdown(own.socket.get(), SHUT_WR);
  const std::lock_guard lock(state_mutex_);
  if (++closed_streams_ == streams_.size()) ::eventfd_write(over_.get(), 1);
  return {};
}

Result<void> TcpReceiver::read_exactly(uint32_t stream, std::span<std::byte> bytes) {
  Stream& own = *streams_[stream];
  while (!bytes.empty()) {
    GODWIT_TRY(own.io->start_receive(0, bytes));
    GODWIT_TRY(own.io->reap(deadline_ns_, own.completions));
    if (own.completions.empty())
      return fail("receive from", kSourceEnd, ETIMEDOUT, "the deadline passed in the middle of a frame");
    const int32_t result = own.completions.front().result;
    if (result == -EINTR || result == -EAGAIN) continue;
    if (result <= 0)
      return fail("receive on", stream_name(stream), result == 0 ? ECONNRESET : -result,
                  "the connection to the source is cut");
    bytes = bytes.subspan(static_cast<size_t>(result));
  }
  return {};
}

Result<void> TcpReceiver::release(const Batch& batch) {
  GODWIT_TRY(is_over());
  if (batch.stream >= streams_.size() || batch.index >= arena_.options().buffers_per_stream)
    return fail("release a batch of", stream_name(batch.stream), EINVAL, "no such batch");
  auto sent = send_credits_for(*streams_[batch.stream], batch.index);
  if (!sent && sent.error().code != EINVAL) return end(sent.error());
  return sent;
}

// Credits of several threads leave in one frame, if they come while another one is being sent.
Result<void> TcpReceiver::send_credits_for(Stream& stream, uint32_t index) {
  std::unique_lock lock(stream.mutex);
  if (!stream.taken[index])
    return fail("release a batch of", "the link", EINVAL, "it has been released before");
  stream.taken[index] = false;
  ++stream.released;
  if (stream.crediting) return {};
  stream.crediting = true;
  uint64_t sent = 0;
  while (sent != stream.released && !stream.closed) {
    sent = stream.released;
    lock.unlock();
    std::array<std::byte, sizeof(FrameHeader)> frame;
    write_frame(frame, FrameType::kCredit, 0, sent);
    auto result = send_all(stream.socket.get(), frame, deadline_ns_);
    lock.lock();
    if (!result && !stream.closed) {
      stream.crediting = false;
      return result;
    }
  }
  stream.crediting = false;
  return {};
}

}  // namespace godwit::transport
