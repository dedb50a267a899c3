#include "engine/host/control_listener.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <spdlog/spdlog.h>
#include <sys/eventfd.h>
#include <sys/socket.h>

#include "base/socket_address.h"

namespace godwit::engine {
namespace {

constexpr int kBacklog = 64;

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

Result<std::unique_ptr<ControlListener>> ControlListener::start(const std::string& address,
                                                                OnConnection on_connection) {
  std::unique_ptr<ControlListener> listener(new ControlListener(std::move(on_connection)));
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
  ended_.wait(lock, [this] { return sessions_ == 0; });
}

void ControlListener::loop() {
  for (;;) {
    pollfd entries[] = {{.fd = socket_.get(), .events = POLLIN, .revents = 0},
                        {.fd = wake_.get(), .events = POLLIN, .revents = 0}};
    if (::poll(entries, 2, -1) < 0 && errno != EINTR)
      return spdlog::error("poll the control listener failed");
    if (entries[1].revents != 0) return;
    if (entries[0].revents == 0) continue;
    SocketAddress address;
    Fd connection(::accept4(socket_.get(), address.get(), &address.size, SOCK_CLOEXEC));
    if (!connection.valid()) {
      // Out of descriptors, say: a moment's rest instead of a spin.
      if (errno != EINTR && errno != ECONNABORTED) ::poll(nullptr, 0, 100);
      continue;
    }
    const int on = 1;
    ::setsockopt(connection.get(), IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    hand_over(std::move(connection), host_and_port_of(address));
  }
}

void ControlListener::hand_over(Fd connection, const std::string& peer) {
  {
    const std::lock_guard lock(mutex_);
    if (sessions_ >= kSessionsMax)
      return spdlog::warn("{}: refused, {} sessions are under way", peer, kSessionsMax);
    ++sessions_;
  }
  std::thread([this, peer, moved = std::move(connection)]() mutable {
    on_connection_(std::move(moved), peer);
    // Told under the lock: the destructor may end as soon as it is released.
    const std::lock_guard lock(mutex_);
    --sessions_;
    ended_.notify_all();
  }).detach();
}

}  // namespace godwit::engine
