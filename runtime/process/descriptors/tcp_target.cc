// TCP sockets at the target: made in repair mode, in which bind, connect and the queues put no packet on the
// wire. What was sent and not acknowledged goes into the send queue as already sent; what was never sent is
// written after repair mode is left, so that the kernel sends it by itself.
#include <linux/tcp.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>

#include "runtime/process/descriptors/options.h"
#include "runtime/process/descriptors/sockaddr.h"
#include "runtime/process/descriptors/target.h"
#include "runtime/process/descriptors/tcp_state.h"

#ifndef SO_BUF_LOCK
#define SO_BUF_LOCK 72
#endif

namespace godwit::runtime {
namespace {

// Option kinds of the TCP header (RFC 9293, 7323, 2018), as TCP_REPAIR_OPTIONS takes them.
constexpr uint32_t kOptionSegment = 2;
constexpr uint32_t kOptionWindow = 3;
constexpr uint32_t kOptionSack = 4;
constexpr uint32_t kOptionTimestamp = 8;

// Set when the socket is in its final state: TCP_FASTOPEN is of unconnected sockets only, SO_REUSEADDR is
// overwritten by repair mode, corks and quick acknowledgements act at once.
constexpr std::array kConnectionLate = {
    OptionName{IPPROTO_TCP, TCP_FASTOPEN}, OptionName{SOL_SOCKET, SO_REUSEADDR},
    OptionName{IPPROTO_TCP, TCP_CORK},     OptionName{IPPROTO_TCP, TCP_QUICKACK},
    OptionName{IPPROTO_TCP, TCP_NODELAY},
};

Result<void> set(int socket, int name, const void* value, size_t size, const char* what) {
  if (::setsockopt(socket, IPPROTO_TCP, name, value, static_cast<socklen_t>(size)) != 0)
    return fail(what, "TCP socket");
  return {};
}
Result<void> set(int socket, int name, uint32_t value, const char* what) {
  return set(socket, name, &value, sizeof value, what);
}

Result<void> choose_sequences(int socket, const model::TcpSocket& tcp) {
  GODWIT_TRY(set(socket, TCP_REPAIR_QUEUE, TCP_SEND_QUEUE, "choose the send queue of"));
  GODWIT_TRY(set(socket, TCP_QUEUE_SEQ, tcp.send_sequence(), "set the send sequence of"));
  GODWIT_TRY(set(socket, TCP_REPAIR_QUEUE, TCP_RECV_QUEUE, "choose the receive queue of"));
  const uint32_t first_unread = tcp.receive_sequence() - static_cast<uint32_t>(tcp.receive_queue().size());
  return set(socket, TCP_QUEUE_SEQ, first_unread, "set the receive sequence of");
}

// The kernel makes one buffer per call; large contiguous ones may fail in fragmented memory.
Result<void> fill_queue(int socket, uint32_t queue, std::string_view bytes) {
  constexpr size_t kPieceMax = 32 << 10;
  if (bytes.empty()) return {};
  GODWIT_TRY(set(socket, TCP_REPAIR_QUEUE, queue, "choose a queue of"));
  while (!bytes.empty()) {
    const ssize_t put =
        ::send(socket, bytes.data(), std::min(bytes.size(), kPieceMax), MSG_DONTWAIT | MSG_NOSIGNAL);
    if (put <= 0) return fail("refill a queue of", "TCP socket", put < 0 ? errno : EIO);
    bytes.remove_prefix(static_cast<size_t>(put));
  }
  return {};
}

Result<void> negotiate(int socket, const model::TcpSocket& tcp) {
  std::array<tcp_repair_opt, 4> options{};
  size_t count = 0;
  options[count++] = {.opt_code = kOptionSegment, .opt_val = tcp.mss_clamp()};
  if (tcp.window_scaling())
    options[count++] = {.opt_code = kOptionWindow,
                        .opt_val = tcp.send_window_scale() | tcp.receive_window_scale() << 16};
  if (tcp.selective_acknowledgements()) options[count++] = {.opt_code = kOptionSack, .opt_val = 0};
  if (tcp.timestamps()) options[count++] = {.opt_code = kOptionTimestamp, .opt_val = 0};
  GODWIT_TRY(
      set(socket, TCP_REPAIR_OPTIONS, options.data(), count * sizeof options[0], "set the options of"));
  if (tcp.timestamps()) GODWIT_TRY(set(socket, TCP_TIMESTAMP, tcp.timestamp(), "set the clock of"));
  return {};
}

// Room for the whole send queue, so that nothing of it has to wait. The size is given back by
// SO_BUF_LOCK and SO_SNDBUF in finish_tcp.
Result<void> make_room(int socket, const model::TcpSocket& tcp) {
  const int size = static_cast<int>(std::clamp<size_t>(tcp.send_queue().size() * 4, 1 << 16, 1U << 30));
  const int receive = static_cast<int>(std::clamp<size_t>(tcp.receive_queue().size() * 4, 1 << 16, 1U << 30));
  if (::setsockopt(socket, SOL_SOCKET, SO_SNDBUFFORCE, &size, sizeof size) != 0)
    return fail("make room in", "TCP socket");
  int current = 0;
  socklen_t length = sizeof current;
  ::getsockopt(socket, SOL_SOCKET, SO_RCVBUF, &current, &length);
  if (current < receive && ::setsockopt(socket, SOL_SOCKET, SO_RCVBUFFORCE, &receive, sizeof receive) != 0)
    return fail("make room in", "TCP socket");
  return {};
}

Result<void> connect_in_repair(int socket, const model::TcpSocket& tcp) {
  GODWIT_TRY(apply_options(socket, tcp.options(), kConnectionLate));
  GODWIT_TRY(make_room(socket, tcp));
  GODWIT_TRY(set(socket, TCP_REPAIR, TCP_REPAIR_ON, "put into repair mode"));
  GODWIT_ASSIGN(const Address local, to_address(tcp.local_address(), tcp.family()));
  GODWIT_ASSIGN(const Address remote, to_address(tcp.remote_address(), tcp.family()));
  if (::bind(socket, local.get(), local.length) != 0)
    return fail("bind", "TCP socket", errno, "is the container's address on its interface?");
  GODWIT_TRY(choose_sequences(socket, tcp));
  if (::connect(socket, remote.get(), remote.length) != 0)
    return fail("reconnect", "TCP socket", errno, "has the container a route to its peer?");
  GODWIT_TRY(negotiate(socket, tcp));
  GODWIT_TRY(fill_queue(socket, TCP_RECV_QUEUE, tcp.receive_queue()));
  const std::string_view queue(tcp.send_queue());
  GODWIT_TRY(fill_queue(socket, TCP_SEND_QUEUE, queue.substr(0, queue.size() - tcp.unsent())));
  GODWIT_TRY(set(socket, TCP_REPAIR_WINDOW, tcp.window().data(), tcp.window().size(), "set the window of"));
  return set(socket, TCP_REPAIR_QUEUE, TCP_NO_QUEUE, "release the queues of");
}

// Of what was never sent, the bytes that are not in the socket yet: by its sequence number, so that this
// holds whoever has begun with it.
Result<std::string_view> still_unsent(int socket, const model::TcpSocket& tcp) {
  GODWIT_TRY(set(socket, TCP_REPAIR, TCP_REPAIR_ON, "put into repair mode"));
  GODWIT_TRY(set(socket, TCP_REPAIR_QUEUE, TCP_SEND_QUEUE, "choose the send queue of"));
  uint32_t next = 0;
  socklen_t length = sizeof next;
  if (::getsockopt(socket, IPPROTO_TCP, TCP_QUEUE_SEQ, &next, &length) != 0)
    return fail("ask the send sequence of", "TCP socket");
  GODWIT_TRY(set(socket, TCP_REPAIR_QUEUE, TCP_NO_QUEUE, "release the queues of"));
  const std::string_view queue(tcp.send_queue());
  const std::string_view unsent = queue.substr(queue.size() - tcp.unsent());
  const uint32_t first = tcp.send_sequence() + static_cast<uint32_t>(queue.size() - unsent.size());
  return unsent.substr(std::min<size_t>(next - first, unsent.size()));
}

Result<void> send_rest(int socket, std::string_view unsent) {
  while (!unsent.empty()) {
    const ssize_t sent = ::send(socket, unsent.data(), unsent.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
    if (sent <= 0) return fail("send what was not sent yet on", "TCP socket", sent < 0 ? errno : EIO);
    unsent.remove_prefix(static_cast<size_t>(sent));
  }
  return {};
}

}  // namespace

bool is_connected(const model::TcpSocket& tcp) {
  return tcp.state() == TCP_ESTABLISHED || tcp.state() == TCP_FIN_WAIT1 || tcp.state() == TCP_FIN_WAIT2;
}

Result<Fd> make_tcp(const model::TcpSocket& tcp) {
  Fd socket(::socket(static_cast<int>(tcp.family()), SOCK_STREAM | SOCK_CLOEXEC, IPPROTO_TCP));
  if (!socket.valid()) return fail("make", "TCP socket");
  if (is_connected(tcp)) {
    GODWIT_TRY(connect_in_repair(socket.get(), tcp));
    return socket;
  }
  GODWIT_TRY(apply_options(socket.get(), tcp.options()));
  if (!tcp.local_address().empty()) {
    GODWIT_ASSIGN(const Address local, to_address(tcp.local_address(), tcp.family()));
    if (::bind(socket.get(), local.get(), local.length) != 0) return fail("bind", "TCP socket");
  }
  if (tcp.state() == TCP_LISTEN && ::listen(socket.get(), static_cast<int>(tcp.backlog())) != 0)
    return fail("listen on", "TCP socket");
  return socket;
}

Result<model::Connection> plan_of_tcp(int socket, const model::TcpSocket& tcp) {
  model::Connection plan;
  uint64_t cookie = 0;
  socklen_t length = sizeof cookie;
  if (::getsockopt(socket, SOL_SOCKET, SO_COOKIE, &cookie, &length) != 0)
    return fail("ask the cookie of", "TCP socket");
  plan.set_cookie(cookie);
  const size_t sent = tcp.send_queue().size() - tcp.unsent();
  model::TcpSocket& rest = *plan.mutable_tcp();
  rest.set_family(tcp.family());
  rest.set_state(tcp.state());
  *rest.mutable_options() = tcp.options();
  rest.set_send_queue(tcp.send_queue().substr(sent));
  rest.set_unsent(tcp.unsent());
  rest.set_send_sequence(tcp.send_sequence() + static_cast<uint32_t>(sent));
  return plan;
}

void finish_tcp(int socket, const model::TcpSocket& tcp, Faults& faults) {
  if (!is_connected(tcp)) return;
  auto unsent = still_unsent(socket, tcp);
  // Leaving repair mode sends a window probe: the restored side speaks first.
  note_fault(faults, set(socket, TCP_REPAIR, TCP_REPAIR_OFF, "take out of repair mode"));
  for (const OptionName late : {kConnectionLate[1], kConnectionLate[4]})
    note_fault(faults, apply_option(socket, tcp.options(), late));
  auto sent = unsent ? send_rest(socket, *unsent) : Result<void>(std::unexpected(unsent.error()));
  if (!sent) {
    // The program believes that these bytes are on their way: a connection that breaks is better than one
    // that goes on without them.
    const sockaddr nowhere{.sa_family = AF_UNSPEC, .sa_data = {}};
    static_cast<void>(::connect(socket, &nowhere, sizeof nowhere));
    faults.push_back(std::move(sent).error());
    return;
  }
  for (const OptionName late : {OptionName{SOL_SOCKET, SO_SNDBUF}, OptionName{SOL_SOCKET, SO_RCVBUF},
                                kConnectionLate[2], kConnectionLate[3]})
    note_fault(faults, apply_option(socket, tcp.options(), late));
  // A buffer size that was set is locked; which ones the container had locked is told by this one.
  note_fault(faults, apply_option(socket, tcp.options(), {SOL_SOCKET, SO_BUF_LOCK}));
  if (tcp.state() != TCP_ESTABLISHED && ::shutdown(socket, SHUT_WR) != 0)
    note_fault(faults, fail("close again the sending side of", "TCP socket"));
}

}  // namespace godwit::runtime
