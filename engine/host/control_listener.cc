#include "engine/host/control_listener.h"

#include <fmt/format.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <spdlog/spdlog.h>
#include <sys/eventfd.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cstring>

#include "base/clock.h"
#include "base/socket_address.h"
#include "engine/protocol/framing.h"

namespace godwit::engine {
namespace {

constexpr int kBacklog = 64;
constexpr size_t kLengthBytes = sizeof(uint32_t);

Result<Fd> listen_at(const std::string& address) {
  GODWIT_ASSIGN(const HostPort parsed, parse_host_port(address));
  GODWIT_ASSIGN(const SocketAddress place, parse_address(parsed.host, parsed.port));
  Fd socket(::socket(place.family(), SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (!socket.valid()) return fail("make a socket for", address);
  const int on = 1;
  if (::setsockopt(socket.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) != 0)
    return fail("set SO_REUSEADDR for", address);
  if (::bind(socket.get(), place.get(), place.size) != 0) return fail("bind to", address);
  if (::listen(socket.get(), kBacklog) != 0) return fail("listen at", address);
  return socket;
}

}  // namespace

Result<std::unique_ptr<ControlListener>> ControlListener::start(const std::string& address, Servants servants,
                                                                Bounds bounds) {
  std::unique_ptr<ControlListener> listener(new ControlListener(std::move(servants), bounds));
  GODWIT_ASSIGN(listener->socket_, listen_at(address));
  listener->wake_.reset(::eventfd(0, EFD_CLOEXEC));
  if (!listener->wake_.valid()) return fail("make", "the listener's wake-up");
  listener->thread_ = std::thread([self = listener.get()] { self->loop(); });
  return listener;
}

void ControlListener::stop_accepting() {
  const uint64_t one = 1;
  if (::write(wake_.get(), &one, sizeof one) != sizeof one) spdlog::warn("the listener cannot be woken");
  if (thread_.joinable()) thread_.join();
}

ControlListener::~ControlListener() {
  stop_accepting();
  std::unique_lock lock(mutex_);
  ended_.wait(lock, [this] { return hellos_ == 0 && inquiries_ == 0; });
}

Result<uint16_t> ControlListener::port() const {
  SocketAddress address;
  if (::getsockname(socket_.get(), address.get(), &address.size) != 0)
    return fail("read the address of", "the control listener");
  return port_of(address);
}

void ControlListener::loop() {
  for (;;) {
    std::vector<pollfd> entries = {{.fd = socket_.get(), .events = POLLIN, .revents = 0},
                                   {.fd = wake_.get(), .events = POLLIN, .revents = 0}};
    int64_t until_ns = INT64_MAX;
    for (const Pending& pending : pending_) {
      entries.push_back({.fd = pending.connection.get(), .events = POLLIN, .revents = 0});
      until_ns = std::min(until_ns, pending.until_ns);
    }
    const int64_t left_ms =
        pending_.empty() ? -1 : std::max<int64_t>((until_ns - monotonic_ns()) / 1'000'000 + 1, 0);
    if (::poll(entries.data(), entries.size(), static_cast<int>(left_ms)) < 0) {
      if (errno != EINTR) return spdlog::error("poll the control listener failed");
      continue;
    }
    if (entries[1].revents != 0) return;
    std::vector<Pending> still;
    for (size_t i = 0; i < pending_.size(); ++i)
      if (still_pending(pending_[i], entries[i + 2].revents != 0)) still.push_back(std::move(pending_[i]));
    pending_ = std::move(still);
    if (entries[0].revents != 0) accept_one();
  }
}

void ControlListener::accept_one() {
  SocketAddress address;
  Fd connection(::accept4(socket_.get(), address.get(), &address.size, SOCK_CLOEXEC));
  if (!connection.valid()) {
    // Out of descriptors, say: a moment's rest instead of a spin.
    if (errno != EINTR && errno != ECONNABORTED) ::poll(nullptr, 0, 100);
    return;
  }
  const int on = 1;
  ::setsockopt(connection.get(), IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  make_room();
  const int64_t now_ns = monotonic_ns();
  pending_.push_back({.connection = std::move(connection),
                      .peer = host_and_port_of(address),
                      .bytes = {},
                      .until_ns = now_ns + bounds_.patience_ms * 1'000'000,
                      .heard_ns = now_ns});
}

// An agent says its first word at once: whoever has been silent for the longest time is the least likely one.
void ControlListener::make_room() {
  if (pending_.size() < bounds_.pending_max) return;
  const auto silent = std::ranges::min_element(pending_, {}, &Pending::heard_ns);
  spdlog::warn("{}: closed, it says nothing and others wait", silent->peer);
  pending_.erase(silent);
}

bool ControlListener::still_pending(Pending& pending, bool readable) {
  if (readable) {
    const auto complete = hear(pending);
    if (!complete)
      spdlog::warn("{}: {}", pending.peer, complete.error().to_string());
    else if (*complete)
      hand_over(pending);
    else
      return true;
    return false;
  }
  if (monotonic_ns() < pending.until_ns) return true;
  spdlog::warn("{}: closed, its first message did not come in time", pending.peer);
  return false;
}

// Takes what has come of the first message, and nothing of what may follow it. True: it is complete.
Result<bool> ControlListener::hear(Pending& pending) {
  std::array<char, 4096> piece{};
  for (;;) {
    size_t wanted = kLengthBytes;
    if (pending.bytes.size() >= kLengthBytes) {
      uint32_t length = 0;
      std::memcpy(&length, pending.bytes.data(), sizeof length);
      if (length > kFirstMessageBytesMax)
        return fail("receive", "the first message", EMSGSIZE,
                    fmt::format("it announces {} bytes, {} are the most", length, kFirstMessageBytesMax));
      wanted += length;
    }
    const size_t missing = wanted - pending.bytes.size();
    if (missing == 0) return true;
    const ssize_t got =
        ::recv(pending.connection.get(), piece.data(), std::min(missing, piece.size()), MSG_DONTWAIT);
    if (got == 0) return fail("receive", "the first message", ECONNRESET, "the other side closed it");
    if (got < 0 && errno == EAGAIN) return false;
    if (got < 0 && errno != EINTR) return fail("receive", "the first message");
    if (got < 0) continue;
    pending.bytes.append(piece.data(), static_cast<size_t>(got));
    pending.heard_ns = monotonic_ns();
  }
}

void ControlListener::hand_over(Pending& pending) {
  auto message = parse_first_message(std::string_view(pending.bytes).substr(kLengthBytes));
  if (!message) return spdlog::warn("{}: {}", pending.peer, message.error().to_string());
  // Shared, because a std::function is copyable.
  const auto connection = std::make_shared<Fd>(std::move(pending.connection));
  if (const auto* hello = std::get_if<model::Hello>(&*message)) {
    const bool served = serve(hellos_, bounds_.hellos_max, [=, this, peer = pending.peer, hello = *hello] {
      servants_.hello(std::move(*connection), peer, hello);
    });
    if (served) return;
    pending.connection = std::move(*connection);
    return refuse_busy(pending);
  }
  const model::Inquiry& inquiry = std::get<model::Inquiry>(*message);
  if (!serve(inquiries_, bounds_.inquiries_max,
             [=, this, peer = pending.peer] { servants_.inquiry(std::move(*connection), peer, inquiry); }))
    spdlog::warn("{}: its inquiry is not answered, {} are under way", pending.peer, bounds_.inquiries_max);
}

void ControlListener::refuse_busy(const Pending& pending) const {
  spdlog::warn("{}: refused, {} arrivals are under way", pending.peer, bounds_.hellos_max);
  model::ControlMessage message;
  message.mutable_refusal()->set_why(
      fmt::format("busy: {} arrivals under way; try again later", bounds_.hellos_max));
  // Nothing was sent on this connection yet: there is room for it, or the peer is gone.
  if (auto sent = send_message(pending.connection.get(), message, monotonic_ns()); !sent)
    spdlog::debug("{}: {}", pending.peer, sent.error().to_string());
}

// On a thread of its own, if there is a place.
bool ControlListener::serve(unsigned& served, unsigned served_max, std::function<void()> task) {
  {
    const std::lock_guard lock(mutex_);
    if (served >= served_max) return false;
    ++served;
  }
  std::thread([this, &served, task = std::move(task)] {
    task();
    // Told under the lock: the destructor may end as soon as it is released.
    const std::lock_guard lock(mutex_);
    --served;
    ended_.notify_all();
  }).detach();
  return true;
}

}  // namespace godwit::engine
