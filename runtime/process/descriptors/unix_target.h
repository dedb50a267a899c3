// Unix sockets at the target. Those that are bound to a path are made complete beside their places, and take
// them after the decision: the source's listeners stay reachable until then (unix_stage.h).
#pragma once

#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "base/fd.h"
#include "base/result.h"
#include "runtime/process/after_commit.pb.h"
#include "runtime/process/descriptors/network_scope.h"
#include "runtime/process/snapshot.pb.h"

namespace godwit::runtime {

class UnixRebuild {
 public:
  using Made = std::vector<std::pair<uint64_t, Fd>>;  // by id of the description

  // `root`: of the container; both must outlive this object.
  UnixRebuild(int root, const NetworkNamespace& network) : root_(root), network_(network) {}
  // All unix sockets of a frozen snapshot. Accepted ends get the names of their listeners, and both ends of a
  // connection the user and group their peers have seen (SO_PEERCRED; the pid is not kept).
  Result<Made> make(const model::Snapshot& snapshot);
  // Options, queues, directions that were shut down. The sockets made must still be open.
  Result<void> settle();
  // What lies aside since make(), also since one that has failed.
  [[nodiscard]] const google::protobuf::RepeatedPtrField<model::StagedName>& staged() const {
    return staged_;
  }

 private:
  struct Socket {
    uint64_t id = 0;
    model::UnixSocket model;
    Fd fd;         // moves out of make()
    int raw = -1;  // the same, from then on
    model::StagedName place = {};
  };
  Result<void> make_here();
  Result<void> make_connections();
  Result<void> make_alone(Socket& socket);
  Result<void> connect_datagrams();
  Result<void> place_aside(Socket& socket);
  Socket* find(uint64_t inode);

  int root_;
  const NetworkNamespace& network_;
  std::vector<Socket> sockets_;
  std::unordered_map<uint64_t, size_t> by_inode_;
  std::vector<std::pair<size_t, Fd>> gone_peers_;  // of orphans: kept until their queues are filled
  google::protobuf::RepeatedPtrField<model::StagedName> staged_;
};

}  // namespace godwit::runtime
