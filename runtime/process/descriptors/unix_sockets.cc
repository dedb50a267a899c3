// Unix sockets: their state and queues at the source, queues at the target.
#include <fcntl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstddef>
#include <cstring>

#include "runtime/process/descriptors/options.h"
#include "runtime/process/descriptors/sockaddr.h"
#include "runtime/process/descriptors/source.h"
#include "runtime/process/descriptors/target.h"
#include "runtime/process/descriptors/unix_names.h"

namespace godwit::runtime {
namespace {

constexpr size_t kPathOffset = offsetof(sockaddr_un, sun_path);
constexpr size_t kMessageMax = 256 << 10;

// One message (or run of bytes) at the peek offset; nothing when there is no more.
Result<bool> peek_message(int socket, std::string& message, bool& end, bool& named) {
  message.resize(kMessageMax);
  iovec part = {.iov_base = message.data(), .iov_len = message.size()};
  alignas(cmsghdr) char control[512];
  sockaddr_un sender{};
  msghdr header{};
  header.msg_name = &sender;
  header.msg_namelen = sizeof sender;
  header.msg_iov = &part;
  header.msg_iovlen = 1;
  header.msg_control = control;
  header.msg_controllen = sizeof control;
  const ssize_t got = ::recvmsg(socket, &header, MSG_PEEK | MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
  if (got < 0 && errno != EAGAIN) return fail("read the queue of", "unix socket");
  end = got <= 0;
  named = header.msg_namelen > kPathOffset;
  if (end) return true;
  bool carries = (header.msg_flags & MSG_CTRUNC) != 0;
  for (cmsghdr* item = CMSG_FIRSTHDR(&header); item != nullptr; item = CMSG_NXTHDR(&header, item)) {
    if (item->cmsg_level != SOL_SOCKET || item->cmsg_type != SCM_RIGHTS) continue;
    carries = true;
    const size_t count = (item->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (size_t i = 0; i < count; ++i) {
      int copy = -1;
      std::memcpy(&copy, CMSG_DATA(item) + i * sizeof(int), sizeof copy);
      ::close(copy);
    }
  }
  if (carries) return fail("carry", "unix socket", EAGAIN, "descriptors are in flight in its queue");
  if ((header.msg_flags & MSG_TRUNC) != 0) return refuse("carry", "unix socket", "a message is too long");
  message.resize(static_cast<size_t>(got));
  return true;
}

Result<void> read_queue(int socket, int type, model::UnixSocket& model) {
  int before = -1;
  socklen_t length = sizeof before;
  if (::getsockopt(socket, SOL_SOCKET, SO_PEEK_OFF, &before, &length) != 0)
    return fail("ask the peek offset of", "unix socket");
  const int from_start = 0;
  if (::setsockopt(socket, SOL_SOCKET, SO_PEEK_OFF, &from_start, sizeof from_start) != 0)
    return fail("set the peek offset of", "unix socket");
  Result<void> outcome;
  std::string message;
  for (bool end = false; !end;) {
    bool named = false;
    if (auto peeked = peek_message(socket, message, end, named); !peeked) {
      outcome = std::unexpected(peeked.error());
      break;
    }
    if (end) break;
    // Refilled by its peer, a datagram would lose the name of another sender.
    if (type == SOCK_DGRAM && (named || model.peer() == 0 || !model.address().empty())) {
      outcome = fail("carry", "unix socket", EAGAIN, "a datagram waits to be read");
      break;
    }
    if (type == SOCK_STREAM && model.queue_size() != 0)
      model.mutable_queue(0)->append(message);
    else
      model.add_queue(message);
  }
  if (::setsockopt(socket, SOL_SOCKET, SO_PEEK_OFF, &before, sizeof before) != 0 && outcome)
    return fail("put back the peek offset of", "unix socket");
  return outcome;
}

Result<void> send_queue(int peer, const model::UnixSocket& model) {
  for (const std::string& message : model.queue()) {
    std::string_view left(message);
    do {
      const ssize_t sent = ::send(peer, left.data(), left.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
      if (sent < 0) return fail("refill the queue of", "unix socket");
      left.remove_prefix(static_cast<size_t>(sent));
    } while (!left.empty() && model.type() == SOCK_STREAM);
    if (!left.empty()) return fail("refill the queue of", "unix socket", EMSGSIZE);
  }
  return {};
}

}  // namespace

Result<void> read_unix(int socket, const ObjectFacts& facts, const UnixPeer& peer, Moment moment,
                       model::UnixSocket& model) {
  model.set_type(static_cast<uint32_t>(facts.type));
  model.set_socket(facts.status.st_ino);
  model.set_peer(peer.peer);
  model.set_shut_read((peer.shutdown & 1) != 0);
  model.set_shut_write((peer.shutdown & 2) != 0);
  int listening = 0;
  socklen_t length = sizeof listening;
  if (::getsockopt(socket, SOL_SOCKET, SO_ACCEPTCONN, &listening, &length) != 0)
    return fail("ask the state of", facts.link);
  model.set_listening(listening != 0);
  std::string address;
  GODWIT_TRY(read_local_address(socket, address));
  if (address.size() > kPathOffset) *model.mutable_address() = address.substr(kPathOffset);
  // The kernel adds the final zero of a path.
  if (is_path(model.address()) && model.address().back() == '\0') model.mutable_address()->pop_back();
  read_options(socket, unix_options(), *model.mutable_options());
  ucred credentials{};
  length = sizeof credentials;
  if (::getsockopt(socket, SOL_SOCKET, SO_PEERCRED, &credentials, &length) == 0 && credentials.uid != ~0U) {
    model.mutable_peer_credentials()->set_pid(static_cast<uint32_t>(credentials.pid));
    model.mutable_peer_credentials()->set_uid(credentials.uid);
    model.mutable_peer_credentials()->set_gid(credentials.gid);
  }
  if (model.listening()) {
    model.set_backlog(peer.backlog);
    if (moment == Moment::kFrozen && peer.pending != 0)
      return fail("carry", facts.link, EAGAIN, "a connection waits to be accepted");
    return {};
  }
  if (moment == Moment::kLive) return {};
  GODWIT_TRY(read_queue(socket, facts.type, model));
  return {};
}

Result<void> settle_unix(int socket, int peer, const model::UnixSocket& model) {
  GODWIT_TRY(apply_options(socket, model.options()));
  if (peer >= 0) GODWIT_TRY(send_queue(peer, model));
  return {};
}

Result<void> shut_unix(int socket, const model::UnixSocket& model) {
  if (!model.shut_read() && !model.shut_write()) return {};
  const int how = model.shut_read() && model.shut_write() ? SHUT_RDWR : model.shut_read() ? SHUT_RD : SHUT_WR;
  if (::shutdown(socket, how) != 0 && errno != ENOTCONN) return fail("shut down", "unix socket");
  return {};
}

}  // namespace godwit::runtime
