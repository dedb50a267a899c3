#include "engine/protocol/peer.h"

#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <utility>

#include "base/clock.h"
#include "engine/protocol/framing.h"

namespace godwit::engine {

using model::ControlMessage;

namespace {
constexpr const char* kNotDue = "it sent a message that was not due";
}

Peer::Peer(Fd socket, std::string name) : socket_(std::move(socket)), name_(std::move(name)) {
  // The frozen snapshot carries the socket queues of the container. It shall not wait for a window to open;
  // where the kernel refuses the size, it does.
  const int bytes = 4 << 20;
  for (const int option : {SO_SNDBUFFORCE, SO_RCVBUFFORCE})
    (void)::setsockopt(socket_.get(), SOL_SOCKET, option, &bytes, sizeof bytes);
}

void Peer::interrupt_on(int fd, std::function<Result<void>()> why) {
  interrupts_.push_back({.fd = fd, .why = std::move(why)});
}

Result<void> Peer::send(const ControlMessage& message) {
  auto sent = send_message(socket_.get(), message, deadline_ns_);
  if (!sent) return fail("send a message to", name_, sent.error().code, sent.error().hint);
  return {};
}

Result<void> Peer::ask_interrupts(bool& socket_readable, int timeout_ms) {
  std::vector<pollfd> entries;
  entries.push_back({.fd = socket_.get(), .events = POLLIN, .revents = 0});
  for (const Interrupt& interrupt : interrupts_)
    entries.push_back({.fd = interrupt.fd, .events = POLLIN, .revents = 0});
  if (::poll(entries.data(), entries.size(), timeout_ms) < 0 && errno != EINTR)
    return fail("wait for", name_);
  for (size_t i = 0; i < interrupts_.size(); ++i)
    if (entries[i + 1].revents != 0) GODWIT_TRY(interrupts_[i].why());
  socket_readable = entries[0].revents != 0;
  return {};
}

Result<void> Peer::wait_readable() {
  for (;;) {
    int timeout_ms = -1;
    if (deadline_ns_ != 0) {
      const int64_t left_ns = deadline_ns_ - monotonic_ns();
      if (left_ns <= 0) return fail("wait for", name_, ETIMEDOUT, "the deadline of the migration has passed");
      timeout_ms = static_cast<int>(std::min<int64_t>(left_ns / 1'000'000 + 1, 60'000));
    }
    bool readable = false;
    GODWIT_TRY(ask_interrupts(readable, timeout_ms));
    if (readable) return {};
  }
}

Result<ControlMessage> Peer::receive() {
  if (auto ahead = std::exchange(ahead_, std::nullopt)) return *std::move(ahead);
  return receive_next();
}

Result<ControlMessage> Peer::receive_or_abort() {
  if (auto ahead = std::exchange(ahead_, std::nullopt)) return *std::move(ahead);
  return receive_as_sent();
}

Result<ControlMessage> Peer::receive_as_sent() {
  GODWIT_TRY(wait_readable());
  ControlMessage message;
  auto received = receive_message(socket_.get(), message, deadline_ns_);
  if (!received) return fail("receive a message from", name_, received.error().code, received.error().hint);
  return message;
}

Result<ControlMessage> Peer::receive_next() {
  GODWIT_ASSIGN(ControlMessage message, receive_as_sent());
  if (message.has_abort()) return refuse("migrate with", name_, "it gave up: " + message.abort().why());
  if (message.has_refusal()) return refuse("prepare", name_, message.refusal().why());
  return message;
}

Result<ControlMessage> Peer::expect(ControlMessage::MessageCase wanted) {
  GODWIT_ASSIGN(ControlMessage message, receive());
  if (message.message_case() != wanted)
    return fail("receive a message from", name_, EPROTO,
                "message " + std::to_string(message.message_case()) + " came where " +
                    std::to_string(wanted) + " was due");
  return message;
}

// Nothing if nothing is there.
Result<std::optional<ControlMessage>> Peer::receive_present() {
  if (deadline_ns_ != 0 && monotonic_ns() > deadline_ns_)
    return fail("migrate with", name_, ETIMEDOUT, "the deadline of the migration has passed");
  bool readable = false;
  GODWIT_TRY(ask_interrupts(readable, 0));
  if (!readable) return std::nullopt;
  return receive_next();
}

Result<void> Peer::check() {
  GODWIT_ASSIGN(const auto message, receive_present());
  if (message) return fail("receive a message from", name_, EPROTO, kNotDue);
  return {};
}

Result<void> Peer::check_ahead() {
  GODWIT_ASSIGN(auto message, receive_present());
  if (message && ahead_) return fail("receive a message from", name_, EPROTO, kNotDue);
  if (message) ahead_ = std::move(message);
  return {};
}

Error Peer::prefer_its_words(Error error) {
  constexpr int64_t kPatienceNs = 300'000'000;
  constexpr int kMessagesMax = 4;  // what may lie before the Abort
  // It does not answer on the link: all that it could say of that is that we have hung up.
  if (error.code == EHOSTUNREACH) return error;
  ignore_interrupts();
  set_deadline_ns(monotonic_ns() + kPatienceNs);
  for (int i = 0; i < kMessagesMax; ++i) {
    auto message = receive();
    if (message) continue;
    return message.error().code == 0 ? std::move(message).error() : std::move(error);
  }
  return error;
}

void Peer::abort(const std::string& why) {
  constexpr int64_t kPatienceNs = 500'000'000;
  ControlMessage message;
  message.mutable_abort()->set_why(why);
  // A peer that no longer listens notices the closed connection instead.
  (void)send_message(socket_.get(), message, monotonic_ns() + kPatienceNs);
}

}  // namespace godwit::engine
