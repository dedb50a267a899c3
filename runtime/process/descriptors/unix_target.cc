#include "runtime/process/descriptors/unix_target.h"

#include <sys/socket.h>

#include <set>
#include <tuple>

#include "runtime/process/descriptors/target.h"
#include "runtime/process/descriptors/unix_connect.h"
#include "runtime/process/descriptors/unix_names.h"
#include "runtime/process/descriptors/unix_stage.h"
#include "runtime/process/descriptors/unix_thread.h"

namespace godwit::runtime {
namespace {

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
  return connect_datagrams();
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
  if (is_path(model.address())) {
    GODWIT_TRY(place_aside(socket));
  } else {
    GODWIT_TRY(bind_unix(socket.fd.get(), model.address()));
  }
  return listen_as_before(socket.fd.get(), model);
}

// On record first: what fails half-way is removed too.
Result<void> UnixRebuild::place_aside(Socket& socket) {
  GODWIT_ASSIGN(socket.place, stage_of(socket.model));
  for (const model::StagedName& other : staged_)
    if (other.directory() == socket.place.directory() && other.name() == socket.place.name())
      return refuse("bind unix socket", socket.model.address(), "two sockets have this path");
  *staged_.Add() = socket.place;
  return bind_aside(root_, socket.fd.get(), socket.model, socket.place);
}

Result<void> UnixRebuild::connect_datagrams() {
  for (Socket& one : sockets_) {
    if (one.model.type() != SOCK_DGRAM || one.model.peer() == 0) continue;
    const Socket* peer = find(one.model.peer());
    if (peer == nullptr) return cannot_connect(one.model);
    if (peer->model.peer() == one.model.socket()) continue;
    const std::string& name = peer->model.address();
    if (name.empty()) return cannot_connect(one.model);
    GODWIT_TRY(is_path(name) ? connect_aside(root_, one.fd.get(), peer->place)
                             : connect_unix(one.fd.get(), name));
  }
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

}  // namespace godwit::runtime
