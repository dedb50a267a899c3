// Descriptions that came from another host: everything is bounded before it is used.
#include <linux/tcp.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <unordered_map>
#include <unordered_set>

#include "runtime/process/descriptors/options.h"
#include "runtime/process/descriptors/sockaddr.h"
#include "runtime/process/descriptors/target.h"
#include "runtime/process/descriptors/tcp_state.h"
#include "runtime/process/descriptors/unix_names.h"

namespace godwit::runtime {
namespace {

constexpr size_t kPathLengthMax = 4095;
constexpr size_t kUnixAddressMax = 108;
constexpr size_t kQueueMax = size_t{1} << 30;
constexpr uint64_t kTimeMax = uint64_t{1} << 62;

Result<void> unacceptable(const std::string& what, const std::string& why) {
  return refuse("accept", what, why);
}

Result<void> check_path(const std::string& path) {
  if (path.empty() || path.size() > kPathLengthMax || path.front() != '/' ||
      path.find('\0') != std::string::npos)
    return unacceptable("path", "it is not an absolute path");
  return {};
}

Result<void> check_file(const model::RegularFile& file) {
  GODWIT_TRY(check_path(file.path()));
  if (file.position() < 0) return unacceptable(file.path(), "its position is negative");
  for (const model::FileLock& lock : file.locks())
    if (lock.kind() < 1 || lock.kind() > 3 || lock.type() > 1 || lock.start() < 0 || lock.length() < 0)
      return unacceptable(file.path(), "its lock has no meaning");
  return {};
}

Result<void> check_pipe(const model::Pipe& pipe) {
  if (pipe.pipe() == 0) return unacceptable("pipe", "it has no number");
  if (pipe.capacity() > (1U << 30) || pipe.contents().size() > kQueueMax)
    return unacceptable("pipe", "it is too large");
  if (!pipe.fifo_path().empty()) return check_path(pipe.fifo_path());
  return {};
}

Result<void> check_timer(const model::TimerDescriptor& timer) {
  if (timer.interval_ns() > kTimeMax || timer.value_ns() > kTimeMax)
    return unacceptable("timerfd", "its time is too far");
  return {};
}

Result<void> check_addresses(uint32_t family, const std::string& local, const std::string& remote) {
  if (family != AF_INET && family != AF_INET6) return unacceptable("socket", "its family is unknown");
  if (!local.empty()) GODWIT_TRY(to_address(local, family));
  if (!remote.empty()) GODWIT_TRY(to_address(remote, family));
  return {};
}

Result<void> check_tcp(const model::TcpSocket& tcp, bool frozen) {
  GODWIT_TRY(check_addresses(tcp.family(), tcp.local_address(), tcp.remote_address()));
  GODWIT_TRY(validate_options(tcp.options(), tcp_options(tcp.family())));
  if (tcp.send_queue().size() > kQueueMax || tcp.receive_queue().size() > kQueueMax)
    return unacceptable("TCP socket", "its queues are too large");
  if (tcp.unsent() > tcp.send_queue().size())
    return unacceptable("TCP socket", "more is unsent than is queued");
  if (tcp.backlog() > (1U << 24)) return unacceptable("TCP socket", "its backlog is too long");
  if (tcp.send_window_scale() > 14 || tcp.receive_window_scale() > 14)
    return unacceptable("TCP socket", "its window scale is beyond what TCP has");
  if (!frozen) return {};
  if (!is_connected(tcp) && tcp.state() != TCP_LISTEN && tcp.state() != TCP_CLOSE)
    return unacceptable("TCP socket", "its state cannot be made");
  if (tcp.state() == TCP_LISTEN && tcp.local_address().empty())
    return unacceptable("TCP listener", "it has no address");
  if (is_connected(tcp) &&
      (tcp.local_address().empty() || tcp.remote_address().empty() ||
       tcp.window().size() != sizeof(tcp_repair_window) || tcp.mss_clamp() == 0 || tcp.mss_clamp() > 65535))
    return unacceptable("TCP connection", "addresses, window or segment size are missing");
  return {};
}

// IPv4 has no larger ones.
constexpr size_t kUdpPayloadMax = 65535 - 20 - 8;

Result<void> check_udp(const model::UdpSocket& udp) {
  GODWIT_TRY(check_addresses(udp.family(), udp.local_address(), udp.remote_address()));
  if (udp.queue_size() != 0 && udp.local_address().empty())
    return unacceptable("UDP socket", "datagrams wait in it, and it is not bound");
  size_t bytes = 0;
  for (const auto& datagram : udp.queue()) {
    GODWIT_TRY(to_address(datagram.source(), udp.family()));
    if (datagram.payload().size() > kUdpPayloadMax)
      return unacceptable("UDP socket", "a datagram is longer than there are");
    bytes += datagram.payload().size();
  }
  if (bytes > kQueueMax) return unacceptable("UDP socket", "its queue is too large");
  return validate_options(udp.options(), udp_options(udp.family()));
}

// An abstract name may have any bytes after its first.
Result<void> check_unix_path(const model::UnixSocket& socket, bool frozen) {
  const std::string& name = socket.address();
  if (socket.listening() && (name.empty() || socket.type() == SOCK_DGRAM))
    return unacceptable("unix listener", "it has no address, or no connections");
  if (!is_path(name)) return {};
  if (name.find('\0') != std::string::npos) return unacceptable("unix socket", "its path is torn");
  const model::UnixSocket::BoundFile& file = socket.bound_file();
  if (frozen && is_bound_itself(socket) && !socket.has_bound_file())
    return unacceptable("unix socket " + name, "nothing is said of its file");
  if (file.mode() > 07777 || file.uid() == ~0U || file.gid() == ~0U)
    return unacceptable("unix socket " + name, "mode or owner of its file have no meaning");
  if (frozen && is_bound_itself(socket) && name.front() != '/') return check_path(file.directory());
  return {};
}

Result<void> check_unix(const model::UnixSocket& socket, bool frozen) {
  if (socket.socket() == 0) return unacceptable("unix socket", "it has no number");
  if (socket.type() != SOCK_STREAM && socket.type() != SOCK_DGRAM && socket.type() != SOCK_SEQPACKET)
    return unacceptable("unix socket", "its type is unknown");
  if (socket.address().size() > kUnixAddressMax || socket.backlog() > (1U << 24))
    return unacceptable("unix socket", "its address or backlog is too long");
  GODWIT_TRY(check_unix_path(socket, frozen));
  if (socket.peer_credentials().uid() == ~0U || socket.peer_credentials().gid() == ~0U)
    return unacceptable("unix socket", "its peer is nobody");
  return validate_options(socket.options(), unix_options());
}

Result<void> check_epoll(const model::Epoll& epoll) {
  for (const model::Epoll::Watch& watch : epoll.watches())
    if (watch.number() >= kDescriptorNumberMax) return unacceptable("epoll watch", "its number is too large");
  return {};
}

using Kinds = std::unordered_map<uint64_t, const model::SharedMemory*>;

Result<void> check_kind(const model::FileDescription& one, const Kinds& memory, bool frozen) {
  switch (one.kind_case()) {
    case model::FileDescription::kFile:
      return check_file(one.file());
    case model::FileDescription::kDevice:
      return check_path(one.device().path());
    case model::FileDescription::kPipe:
      return check_pipe(one.pipe());
    case model::FileDescription::kEpoll:
      return check_epoll(one.epoll());
    case model::FileDescription::kTimerfd:
      return check_timer(one.timerfd());
    case model::FileDescription::kUnixSocket:
      return check_unix(one.unix_socket(), frozen);
    case model::FileDescription::kTcp:
      return check_tcp(one.tcp(), frozen);
    case model::FileDescription::kUdp:
      return check_udp(one.udp());
    case model::FileDescription::kMemory:
      if (!memory.contains(one.memory().shared_memory()) || one.memory().position() < 0)
        return unacceptable("memfd", "its memory is not listed");
      return {};
    case model::FileDescription::kEventfd:
    case model::FileDescription::kSignalfd:
    case model::FileDescription::kLog:
      return {};
    case model::FileDescription::KIND_NOT_SET:
      break;
  }
  return unacceptable("file description " + std::to_string(one.id()), "its kind is unknown");
}

}  // namespace

Result<void> validate_descriptions(const model::Snapshot& snapshot) {
  Kinds memory;
  for (const model::SharedMemory& one : snapshot.shared_memory()) {
    if (one.id() == 0 || !memory.emplace(one.id(), &one).second)
      return unacceptable("shared memory", "its id is not unique");
    if (one.size() > (uint64_t{1} << 46) || one.name().size() > 249 ||
        one.name().find('\0') != std::string::npos)
      return unacceptable("shared memory " + std::to_string(one.id()), "size or name are too large");
  }
  std::unordered_set<uint64_t> ids;
  for (const model::FileDescription& one : snapshot.descriptions()) {
    if (one.id() == 0 || !ids.insert(one.id()).second)
      return unacceptable("file description", "its id is not unique");
    if (one.owner_type() > 3) return unacceptable("file description", "its owner has no meaning");
    GODWIT_TRY(check_kind(one, memory, snapshot.frozen()));
  }
  for (const model::Process& process : snapshot.processes()) {
    int64_t last = -1;
    for (const model::Descriptor& one : process.descriptors()) {
      const std::string name = "pid " + std::to_string(process.pid()) + " fd " + std::to_string(one.number());
      if (one.number() >= kDescriptorNumberMax || one.number() <= last)
        return unacceptable(name, "numbers must ascend");
      // A live snapshot may name descriptions that were gone when they were looked at.
      if (snapshot.frozen() && !ids.contains(one.description()))
        return unacceptable(name, "nothing stands behind it");
      last = one.number();
    }
  }
  return {};
}

}  // namespace godwit::runtime
