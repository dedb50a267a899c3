#include "runtime/process/descriptors/unix_target.h"

#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <set>
#include <tuple>

#include "runtime/process/descriptors/target.h"
#include "runtime/process/descriptors/unix_connect.h"
#include "runtime/process/descriptors/unix_names.h"
#include "runtime/process/descriptors/unix_thread.h"

namespace godwit::runtime {
namespace {

Result<void> go_to_start(const model::UnixSocket& model) {
  const std::string& directory = model.bound_file().directory();
  if (::chdir(directory.empty() ? "/" : directory.c_str()) != 0) return fail("enter", directory);
  return {};
}

// What stands in the way of binding to the path, as far as it can be known now. True: an old socket is there.
Result<bool> check_place(const model::UnixSocket& model) {
  GODWIT_TRY(go_to_start(model));
  const std::string& path = model.address();
  const std::string directory = directory_of(path);
  if (::access(directory.c_str(), W_OK | X_OK) != 0)
    return fail("bind unix socket", path, errno, "its directory must be there and writable at the target");
  struct stat status {};
  if (::lstat(path.c_str(), &status) != 0) {
    if (errno == ENOENT) return false;
    return fail("stat", path);
  }
  if (!S_ISSOCK(status.st_mode)) return refuse("bind unix socket", path, "another kind of file is there");
  return true;
}

Result<void> bind_to_path(int socket, const model::UnixSocket& model) {
  GODWIT_ASSIGN(const bool occupied, check_place(model));
  const char* path = model.address().c_str();
  if (occupied && ::unlink(path) != 0) return fail("replace", path);
  GODWIT_TRY(bind_unix(socket, model.address()));
  const model::UnixSocket::BoundFile& file = model.bound_file();
  if (::lchown(path, file.uid(), file.gid()) != 0) return fail("change the owner of", path);
  if (::chmod(path, file.mode()) != 0) return fail("change the mode of", path);
  return {};
}

Result<void> listen_as_before(int socket, const model::UnixSocket& model) {
  if (!model.listening()) return {};
  GODWIT_TRY(act_as(model.peer_credentials().uid(), model.peer_credentials().gid()));
  if (::listen(socket, static_cast<int>(model.backlog())) != 0) return fail("listen on", "unix socket");
  return act_as(0, 0);
}

Result<void> cannot_connect(const model::UnixSocket& model) {
  return refuse("make", "unix socket " + std::to_string(model.socket()),
                "its peer is not in the snapshot, or not connected to it");
}

}  // namespace

UnixRebuild::Socket* UnixRebuild::find(uint64_t inode) {
  const auto place = by_inode_.find(inode);
  return place == by_inode_.end() ? nullptr : &sockets_[place->second];
}

Result<UnixRebuild::Made> UnixRebuild::make(const model::Snapshot& snapshot) {
  sockets_.clear();
  by_inode_.clear();
  gone_peers_.clear();
  late_.clear();
  for (const model::FileDescription& one : snapshot.descriptions()) {
    if (one.kind_case() != model::FileDescription::kUnixSocket) continue;
    if (!by_inode_.emplace(one.unix_socket().socket(), sockets_.size()).second)
      return refuse("make", "unix socket", "two descriptions have one inode");
    sockets_.push_back({.id = one.id(), .model = one.unix_socket(), .fd = {}, .raw = -1});
  }
  if (sockets_.empty()) return Made();
  GODWIT_TRY(on_own_thread([this] { return make_here(); }));
  Made made;
  made.reserve(sockets_.size());
  for (Socket& socket : sockets_) {
    socket.raw = socket.fd.get();
    made.emplace_back(socket.id, std::move(socket.fd));
  }
  return made;
}

// Connections first: their listeners of a moment take the names that the real ones are bound to afterwards.
Result<void> UnixRebuild::make_here() {
  GODWIT_ASSIGN(const NetworkNamespace::Scope scope, network_.enter());
  GODWIT_TRY(make_connections());
  for (Socket& socket : sockets_) GODWIT_TRY(make_alone(socket));
  GODWIT_TRY(connect_datagrams());
  if (late_.empty()) return {};
  GODWIT_TRY(enter_root(root_));
  for (const Late& late : late_)
    if (is_path(late.model.address())) GODWIT_TRY(check_place(late.model));
  return {};
}

Result<void> UnixRebuild::make_connections() {
  std::set<std::string> listeners;
  for (const Socket& one : sockets_)
    if (one.model.listening()) listeners.insert(one.model.address());
  UnixConnector connector;
  for (size_t i = 0; i < sockets_.size(); ++i) {
    Socket& one = sockets_[i];
    const bool datagram = one.model.type() == SOCK_DGRAM;
    if (one.fd.valid() || (one.model.peer() == 0 && !is_orphan(one.model))) continue;
    Socket* peer = find(one.model.peer());
    const bool mutual = peer != nullptr && peer != &one && peer->model.peer() == one.model.socket() &&
                        peer->model.type() == one.model.type() && !peer->fd.valid();
    if (datagram && !mutual) continue;
    if (!mutual && !is_orphan(one.model)) return cannot_connect(one.model);
    const model::UnixSocket nobody;
    const model::UnixSocket& other = mutual ? peer->model : nobody;
    AcceptedEnd accepted = AcceptedEnd::kNone;
    if (!datagram) {
      GODWIT_ASSIGN(accepted, accepted_end(one.model.address(), other.address(), listeners));
    }
    Fd there;
    if (accepted == AcceptedEnd::kSecond) {
      GODWIT_ASSIGN(std::tie(there, one.fd), connector.connect(other, one.model));
    } else if (accepted == AcceptedEnd::kFirst) {
      GODWIT_ASSIGN(std::tie(one.fd, there), connector.connect(one.model, other));
    } else {
      GODWIT_ASSIGN(std::tie(one.fd, there), connector.make_pair(one.model));
    }
    if (mutual)
      peer->fd = std::move(there);
    else
      gone_peers_.emplace_back(i, std::move(there));
  }
  return {};
}

// What is not connected, and the names of what is bound itself.
Result<void> UnixRebuild::make_alone(Socket& socket) {
  const model::UnixSocket& model = socket.model;
  if (!socket.fd.valid()) {
    socket.fd.reset(::socket(AF_UNIX, static_cast<int>(model.type()) | SOCK_CLOEXEC, 0));
    if (!socket.fd.valid()) return fail("make", "unix socket");
  }
  if (!is_bound_itself(model)) return {};
  if (is_path(model.address())) return add_late(socket, {});
  GODWIT_TRY(bind_unix(socket.fd.get(), model.address()));
  return listen_as_before(socket.fd.get(), model);
}

Result<void> UnixRebuild::connect_datagrams() {
  for (Socket& one : sockets_) {
    if (one.model.type() != SOCK_DGRAM || one.model.peer() == 0) continue;
    const Socket* peer = find(one.model.peer());
    if (peer == nullptr) return cannot_connect(one.model);
    if (peer->model.peer() == one.model.socket()) continue;
    const std::string& name = peer->model.address();
    if (name.empty()) return cannot_connect(one.model);
    if (!is_path(name)) {
      GODWIT_TRY(connect_unix(one.fd.get(), name));
      continue;
    }
    std::string path = peer->model.bound_file().directory();
    if (!path.empty()) path += '/';
    path += name;
    GODWIT_TRY(add_late(one, std::move(path)));
  }
  return {};
}

// Through a second descriptor: the first is handed over.
Result<void> UnixRebuild::add_late(const Socket& socket, std::string connect_to) {
  GODWIT_ASSIGN(Fd fd, duplicate(socket.fd.get()));
  model::UnixSocket model = socket.model;
  if (!connect_to.empty()) model.clear_address();
  late_.push_back({.model = std::move(model), .fd = std::move(fd), .connect_to = std::move(connect_to)});
  return {};
}

Result<void> UnixRebuild::settle() {
  std::unordered_map<size_t, int> gone;
  for (const auto& [index, fd] : gone_peers_) gone[index] = fd.get();
  for (size_t i = 0; i < sockets_.size(); ++i) {
    const Socket& one = sockets_[i];
    const Socket* peer = find(one.model.peer());
    const int from = gone.contains(i) ? gone[i] : peer != nullptr ? peer->raw : -1;
    if (from < 0 && one.model.queue_size() != 0)
      return refuse("refill the queue of", "unix socket", "it has no peer");
    GODWIT_TRY(settle_unix(one.raw, from, one.model));
  }
  gone_peers_.clear();
  for (const Socket& one : sockets_)
    if (one.model.peer() != 0) GODWIT_TRY(shut_unix(one.raw, one.model));
  sockets_.clear();
  by_inode_.clear();
  return {};
}

Result<void> UnixRebuild::finish() {
  if (late_.empty()) return {};
  auto outcome = on_own_thread([this] { return finish_here(); });
  late_.clear();
  return outcome;
}

// Connections after all names are there.
Result<void> UnixRebuild::finish_here() {
  GODWIT_TRY(enter_root(root_));
  Result<void> outcome;
  const auto keep = [&outcome](Result<void> one) {
    if (!one && outcome) outcome = std::move(one);
    return outcome.has_value();
  };
  for (const Late& late : late_) {
    if (!late.connect_to.empty()) continue;
    if (keep(bind_to_path(late.fd.get(), late.model))) keep(listen_as_before(late.fd.get(), late.model));
  }
  for (const Late& late : late_)
    if (!late.connect_to.empty()) keep(connect_unix(late.fd.get(), late.connect_to));
  return outcome;
}

}  // namespace godwit::runtime
