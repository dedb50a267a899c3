#include "transport/tcp/tcp_sender.h"

#include <sys/socket.h>

#include <algorithm>
#include <cstring>

#include "base/clock.h"
#include "transport/names.h"
#include "transport/tcp/socket.h"

namespace godwit::transport {
namespace {

constexpr uint32_t kCloseTag = UINT32_MAX;  // not a buffer's
constexpr size_t kCreditFramesMax = kBuffersPerStreamMax;

}  // namespace

TcpSender::TcpSender(std::vector<Fd> sockets, Arena arena) : arena_(std::move(arena)) {
  for (Fd& socket : sockets) {
    Stream& stream = streams_.emplace_back();
    stream.socket = std::move(socket);
    stream.slots.resize(arena_.options().buffers_per_stream);
  }
}

Result<std::unique_ptr<LinkSender>> TcpSender::create(std::vector<Fd> sockets, Arena arena, TcpIo io) {
  std::unique_ptr<TcpSender> sender(new TcpSender(std::move(sockets), std::move(arena)));
  if (auto opened = sender->open(io); !opened) {
    sender->error_ = opened.error();
    return std::unexpected(opened.error());
  }
  return sender;
}

Result<void> TcpSender::open(TcpIo io) {
  std::vector<int> sockets;
  sockets.reserve(streams_.size());
  for (const Stream& stream : streams_) sockets.push_back(stream.socket.get());
  GODWIT_ASSIGN(io_, make_socket_io(io, sockets, arena_.all()));
  for (uint32_t i = 0; i < streams_.size(); ++i) GODWIT_TRY(await_credits(i));
  return pump(false);
}

TcpSender::~TcpSender() {
  if (!error_) static_cast<void>(close_in_order());
  for (const Stream& stream : streams_) ::shutdown(stream.socket.get(), SHUT_RDWR);
}

std::unexpected<Error> TcpSender::end(Error error) {
  if (!error_) {
    error_ = std::move(error);
    for (const Stream& stream : streams_) ::shutdown(stream.socket.get(), SHUT_RDWR);
  }
  return std::unexpected(*error_);
}

Result<void> TcpSender::check(const char* operation) {
  if (error_) return std::unexpected(*error_);
  if (has_passed(deadline_ns_))
    return end(fail(operation, "the link", ETIMEDOUT, "the deadline has passed").error());
  return {};
}

Result<LinkSender::Buffer> TcpSender::acquire(uint32_t stream) {
  GODWIT_TRY(check("get a buffer of"));
  if (stream >= streams_.size())
    return fail("get a buffer of", stream_name(stream), EINVAL, "no such stream");
  Stream& own = streams_[stream];
  GODWIT_TRY(pump(false));
  for (;;) {
    const auto slot = find_free_slot(own);
    if (slot && own.acquired - own.released < own.slots.size()) {
      own.slots[*slot].owner = Owner::kCaller;
      ++own.acquired;
      return Buffer{.memory = arena_.payload(stream, *slot), .index = *slot, .stream = stream};
    }
    GODWIT_TRY(pump(true));
    GODWIT_TRY(check("wait for a buffer of"));
  }
}

Result<void> TcpSender::submit(const Buffer& buffer, uint32_t size) {
  GODWIT_TRY(check("send on"));
  if (buffer.stream >= streams_.size() || buffer.index >= arena_.options().buffers_per_stream)
    return fail("send on", stream_name(buffer.stream), EINVAL, "no such buffer");
  Stream& stream = streams_[buffer.stream];
  Slot& slot = stream.slots[buffer.index];
  if (slot.owner != Owner::kCaller)
    return fail("send on", stream_name(buffer.stream), EINVAL, "the buffer has not been acquired");
  if (size == 0 || size > arena_.options().buffer_bytes)
    return fail("send on", stream_name(buffer.stream), EINVAL, "a batch of this size does not fit");
  slot.owner = Owner::kQueue;
  write_frame(arena_.header(buffer.stream, buffer.index), FrameType::kBatch, size, stream.submitted++);
  stream.queue.emplace_back(buffer.index, arena_.frame(buffer.stream, buffer.index, size));
  counters_.bytes += size;
  ++counters_.batches;
  if (auto sent = send_next(buffer.stream); !sent) return end(sent.error());
  return pump(false);
}

Result<void> TcpSender::barrier(uint64_t token) {
  const std::string operation = "wait for barrier " + std::to_string(token) + " on";
  GODWIT_TRY(check(operation.c_str()));
  GODWIT_TRY(pump(false));
  while (!all_released()) {
    GODWIT_TRY(pump(true));
    GODWIT_TRY(check(operation.c_str()));
  }
  return {};
}

bool TcpSender::all_released() const {
  return std::all_of(streams_.begin(), streams_.end(),
                     [](const Stream& stream) { return stream.released == stream.submitted; });
}

std::optional<uint32_t> TcpSender::find_free_slot(const Stream& stream) const {
  for (uint32_t i = 0; i < stream.slots.size(); ++i)
    if (stream.slots[i].owner == Owner::kLink && stream.slots[i].held == 0) return i;
  return std::nullopt;
}

Result<void> TcpSender::pump(bool waiting) {
  auto reaped = waiting ? io_->reap(deadline_ns_, completions_) : io_->reap_ready(completions_);
  if (reaped) reaped = handle_all();
  if (!reaped) return end(reaped.error());
  return {};
}

Result<void> TcpSender::handle_all() {
  for (const SocketIo::Completion& completion : completions_) GODWIT_TRY(handle(completion));
  return {};
}

Result<void> TcpSender::handle(const SocketIo::Completion& completion) {
  switch (completion.event) {
    case SocketIo::Event::kSent:
      return handle_sent(completion);
    case SocketIo::Event::kReceived:
      return handle_received(completion);
    case SocketIo::Event::kBufferFree:
      if (completion.tag != kCloseTag) --streams_[completion.socket].slots[completion.tag].held;
      return {};
    case SocketIo::Event::kInvalid:
      break;
  }
  return fail("read a completion of", io_->name(), EPROTO);
}

Result<void> TcpSender::handle_sent(const SocketIo::Completion& completion) {
  Stream& stream = streams_[completion.socket];
  stream.sending = false;
  if (completion.buffer_held && completion.tag != kCloseTag) ++stream.slots[completion.tag].held;
  if (completion.result == -EINTR) return send_next(completion.socket);
  if (completion.result <= 0)
    return fail("send on", stream_name(completion.socket),
                completion.result == 0 ? EPIPE : -completion.result, "the connection to the target is cut");
  auto& [tag, rest] = stream.queue.front();
  rest = rest.subspan(static_cast<size_t>(completion.result));
  if (rest.empty()) {
    if (tag != kCloseTag) stream.slots[tag].owner = Owner::kLink;
    stream.queue.pop_front();
  }
  return send_next(completion.socket);
}

Result<void> TcpSender::send_next(uint32_t stream) {
  Stream& own = streams_[stream];
  if (own.sending || own.queue.empty()) return {};
  own.sending = true;
  return io_->start_send(stream, own.queue.front().first, own.queue.front().second);
}

std::span<std::byte> TcpSender::credit_area(uint32_t stream) const {
  return arena_.control(stream).subspan(sizeof(FrameHeader), kCreditFramesMax * sizeof(FrameHeader));
}

Result<void> TcpSender::await_credits(uint32_t stream) {
  return io_->start_receive(stream, credit_area(stream).subspan(streams_[stream].credit_bytes));
}

Result<void> TcpSender::handle_received(const SocketIo::Completion& completion) {
  Stream& stream = streams_[completion.socket];
  if (completion.result == -EINTR || completion.result == -EAGAIN) return await_credits(completion.socket);
  if (completion.result <= 0) {
    stream.ended = true;
    if (closing_) return {};
    return fail("receive on", stream_name(completion.socket),
                completion.result == 0 ? ECONNRESET : -completion.result,
                "the connection to the target is cut");
  }
  const std::span<std::byte> area = credit_area(completion.socket);
  const size_t filled = stream.credit_bytes + static_cast<size_t>(completion.result);
  size_t used = 0;
  for (; filled - used >= sizeof(FrameHeader); used += sizeof(FrameHeader)) {
    GODWIT_ASSIGN(const FrameHeader header,
                  read_frame(ConstFrameBytes(area.data() + used, sizeof(FrameHeader)), kTargetEnd));
    GODWIT_TRY(take_credit(completion.socket, header));
  }
  stream.credit_bytes = filled - used;
  std::memmove(area.data(), area.data() + used, stream.credit_bytes);
  return await_credits(completion.socket);
}

Result<void> TcpSender::take_credit(uint32_t stream, const FrameHeader& header) {
  Stream& own = streams_[stream];
  if (header.type != FrameType::kCredit)
    return fail("read a frame from", kTargetEnd, EPROTO, "something else than a credit");
  if (header.number <= own.released || header.number > own.submitted)
    return fail("read a frame from", kTargetEnd, EPROTO,
                "a credit for " + std::to_string(header.number) + " batches, when " +
                    std::to_string(own.submitted) + " were sent and " + std::to_string(own.released) +
                    " released");
  own.released = header.number;
  return {};
}

// Reading on until the target's end of stream matters: closing a socket with unread credits in it sends a
// RST, which could destroy the last batches on their way.
Result<void> TcpSender::close_in_order() {
  const int64_t limit_ns = monotonic_ns() + int64_t{kCloseWaitMs} * 1'000'000;
  deadline_ns_ = deadline_ns_ == 0 ? limit_ns : std::min(deadline_ns_, limit_ns);
  closing_ = true;
  for (uint32_t i = 0; i < streams_.size(); ++i) {
    const FrameBytes frame = arena_.control(i).first<sizeof(FrameHeader)>();
    write_frame(frame, FrameType::kClose, 0, streams_[i].submitted);
    streams_[i].queue.emplace_back(kCloseTag, frame);
    GODWIT_TRY(send_next(i));
  }
  const auto is_open = [](const Stream& stream) { return !stream.ended; };
  while (std::any_of(streams_.begin(), streams_.end(), is_open)) {
    GODWIT_TRY(check("close"));
    GODWIT_TRY(pump(true));
  }
  return {};
}

}  // namespace godwit::transport
