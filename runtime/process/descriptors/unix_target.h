// Unix sockets at the target. Whatever the container's file system would show (sockets bound to a path) waits
// for finish(): the source's listeners stay reachable until the commit.
#pragma once

#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "base/fd.h"
#include "base/result.h"
#include "runtime/process/descriptors/network_scope.h"
#include "runtime/process/snapshot.pb.h"

namespace godwit::runtime {

class UnixRebuild {
 public:
  using Made = std::vector<std::pair<uint64_t, Fd>>;  // by id of the description

  // `root`: of the container; both must outlive this object.
  UnixRebuild(int root, const NetworkNamespace& network) : root_(root), network_(network) {}
  // All unix sockets of a frozen snapshot. Accepted ends get the names of their listeners, and both ends of a
  // connection the user and group their peers have seen (SO_PEERCRED; the pid is not kept). Checks that
  // finish() will find what it needs.
  Result<Made> make(const model::Snapshot& snapshot);
  // Options, queues, directions that were shut down. The sockets made must still be open.
  Result<void> settle();
  // Binds what is bound to a path, in the place of the file that is there; listens; connects datagram sockets
  // to names. Goes on after an error, and returns the first.
  Result<void> finish();

 private:
  struct Socket {
    uint64_t id = 0;
    model::UnixSocket model;
    Fd fd;         // moves out of make()
    int raw = -1;  // the same, from then on
  };
  struct Late {
    model::UnixSocket model;
    Fd fd;
    std::string connect_to;  // empty: it is not
  };
  Result<void> make_here();
  Result<void> make_connections();
  Result<void> make_alone(Socket& socket);
  Result<void> connect_datagrams();
  Result<void> add_late(const Socket& socket, std::string connect_to);
  Result<void> finish_here();
  Socket* find(uint64_t inode);

  int root_;
  const NetworkNamespace& network_;
  std::vector<Socket> sockets_;
  std::unordered_map<uint64_t, size_t> by_inode_;
  std::vector<std::pair<size_t, Fd>> gone_peers_;  // of orphans: kept until their queues are filled
  std::vector<Late> late_;
};

}  // namespace godwit::runtime
