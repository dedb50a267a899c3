// TCP sockets at the source: TCP_REPAIR, queues and sequence numbers. Needs CAP_NET_ADMIN over the
// container's network namespace, and a network that is blocked: what arrives after a queue was read is
// acknowledged and lost.
#include <linux/sockios.h>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include "runtime/process/descriptors/options.h"
#include "runtime/process/descriptors/sockaddr.h"
#include "runtime/process/descriptors/source.h"
#include "runtime/process/descriptors/tcp_state.h"

namespace godwit::runtime {
namespace {

Result<void> set(int socket, int name, int value, const char* what) {
  if (::setsockopt(socket, IPPROTO_TCP, name, &value, sizeof value) != 0) return fail(what, "TCP socket");
  return {};
}

template <typename Value>
Result<Value> get(int socket, int name, const char* what) {
  Value value{};
  socklen_t length = sizeof value;
  if (::getsockopt(socket, IPPROTO_TCP, name, &value, &length) != 0) return fail(what, "TCP socket");
  return value;
}

// The whole queue that TCP_REPAIR_QUEUE has chosen.
Result<std::string> peek_queue(int socket, size_t length) {
  std::string queue(length, '\0');
  if (length == 0) return queue;
  const ssize_t got = ::recv(socket, queue.data(), length, MSG_PEEK | MSG_DONTWAIT);
  if (got != static_cast<ssize_t>(length))
    return fail("read a queue of", "TCP socket", got < 0 ? errno : EIO,
                "the queue is not what it was said to be");
  return queue;
}

Result<void> read_queues(int socket, model::TcpSocket& tcp) {
  int unread = 0;
  int unacknowledged = 0;
  int unsent = 0;
  if (::ioctl(socket, SIOCINQ, &unread) != 0 || ::ioctl(socket, SIOCOUTQ, &unacknowledged) != 0 ||
      ::ioctl(socket, SIOCOUTQNSD, &unsent) != 0)
    return fail("ask the queues of", "TCP socket");
  GODWIT_TRY(set(socket, TCP_REPAIR_QUEUE, TCP_SEND_QUEUE, "choose the send queue of"));
  GODWIT_ASSIGN(const uint32_t write_sequence, get<uint32_t>(socket, TCP_QUEUE_SEQ, "ask the sequence of"));
  // Our own FIN takes a sequence number at the end, but is no data.
  const bool closed = tcp.state() == TCP_FIN_WAIT1;
  const int data = unacknowledged - (closed ? 1 : 0);
  GODWIT_ASSIGN(*tcp.mutable_send_queue(), peek_queue(socket, static_cast<size_t>(std::max(data, 0))));
  tcp.set_unsent(
      static_cast<uint32_t>(std::clamp(unsent - (closed && unsent > 0 ? 1 : 0), 0, std::max(data, 0))));
  tcp.set_send_sequence(write_sequence - static_cast<uint32_t>(unacknowledged) -
                        (tcp.state() == TCP_FIN_WAIT2 ? 1 : 0));
  GODWIT_TRY(set(socket, TCP_REPAIR_QUEUE, TCP_RECV_QUEUE, "choose the receive queue of"));
  GODWIT_ASSIGN(const uint32_t receive_sequence, get<uint32_t>(socket, TCP_QUEUE_SEQ, "ask the sequence of"));
  GODWIT_ASSIGN(*tcp.mutable_receive_queue(), peek_queue(socket, static_cast<size_t>(unread)));
  tcp.set_receive_sequence(receive_sequence);
  return set(socket, TCP_REPAIR_QUEUE, TCP_NO_QUEUE, "release the queues of");
}

Result<void> read_connection(int socket, const tcp_info& info, model::TcpSocket& tcp) {
  GODWIT_TRY(enter_repair(socket));
  GODWIT_TRY(read_queues(socket, tcp));
  tcp.set_send_window_scale(info.tcpi_snd_wscale);
  tcp.set_receive_window_scale(info.tcpi_rcv_wscale);
  tcp.set_window_scaling((info.tcpi_options & TCPI_OPT_WSCALE) != 0);
  tcp.set_selective_acknowledgements((info.tcpi_options & TCPI_OPT_SACK) != 0);
  tcp.set_timestamps((info.tcpi_options & TCPI_OPT_TIMESTAMPS) != 0);
  GODWIT_ASSIGN(const int clamp, get<int>(socket, TCP_MAXSEG, "ask the segment size of"));
  tcp.set_mss_clamp(static_cast<uint32_t>(clamp));
  if (tcp.timestamps()) {
    GODWIT_ASSIGN(const uint32_t stamp, get<uint32_t>(socket, TCP_TIMESTAMP, "ask the clock of"));
    tcp.set_timestamp(stamp);
  }
  GODWIT_ASSIGN(const tcp_repair_window window,
                get<tcp_repair_window>(socket, TCP_REPAIR_WINDOW, "ask the window of"));
  tcp.set_window(&window, sizeof window);
  return {};
}

// States in which a socket can be read and made again. The others pass by themselves or when the container
// closes the socket.
Result<void> check_state(uint32_t state) {
  switch (state) {
    case TCP_ESTABLISHED:
    case TCP_FIN_WAIT1:
    case TCP_FIN_WAIT2:
    case TCP_LISTEN:
    case TCP_CLOSE:
      return {};
    case TCP_SYN_SENT:
      return fail("carry", "TCP socket", EAGAIN, "it is connecting at this moment");
    default:
      return fail("carry", "TCP socket", EAGAIN,
                  "its peer has closed (TCP state " + std::to_string(state) + ") and it has not yet");
  }
}

}  // namespace

Result<void> enter_repair(int socket) {
  return set(socket, TCP_REPAIR, TCP_REPAIR_ON, "put into repair mode");
}

Result<void> leave_repair_silently(int socket, const model::TcpSocket& tcp) {
  GODWIT_TRY(set(socket, TCP_REPAIR, TCP_REPAIR_OFF_NO_WP, "take out of repair mode"));
  return apply_option(socket, tcp.options(), {SOL_SOCKET, SO_REUSEADDR});
}

Result<void> read_tcp(int socket, const ObjectFacts& facts, Moment moment, model::TcpSocket& tcp) {
  tcp.set_family(static_cast<uint32_t>(facts.family));
  GODWIT_ASSIGN(const tcp_info info, get<tcp_info>(socket, TCP_INFO, "ask the state of"));
  tcp.set_state(info.tcpi_state);
  GODWIT_TRY(read_local_address(socket, *tcp.mutable_local_address()));
  read_options(socket, tcp_options(tcp.family()), *tcp.mutable_options());
  if (tcp.state() == TCP_LISTEN) {
    tcp.set_backlog(info.tcpi_sacked);
    if (moment == Moment::kFrozen && info.tcpi_unacked != 0)
      return fail("carry", facts.link, EAGAIN, "a connection waits to be accepted");
    return {};
  }
  if (moment == Moment::kLive) return {};
  GODWIT_TRY(check_state(tcp.state()));
  if (tcp.state() == TCP_CLOSE) return {};
  GODWIT_TRY(read_remote_address(socket, *tcp.mutable_remote_address()));
  return read_connection(socket, info, tcp);
}

}  // namespace godwit::runtime
