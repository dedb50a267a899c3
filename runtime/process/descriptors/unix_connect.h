// Connections between two unix sockets of ours that look from both ends as the ones they replace.
#pragma once

#include <string>
#include <utility>

#include "base/fd.h"
#include "base/result.h"
#include "runtime/process/snapshot.pb.h"

namespace godwit::runtime {

// `name`: sun_path as the snapshot has it (a path without its final zero, or abstract).
[[nodiscard]] Result<void> bind_unix(int socket, const std::string& name);
[[nodiscard]] Result<void> connect_unix(int socket, const std::string& name);

// To be used on a thread of on_own_thread(), inside the container's network namespace. The thread's root
// directory changes to a private, empty one when a path is bound: the name is kept, the container sees
// nothing.
class UnixConnector {
 public:
  // The accepted end, then the client's.
  Result<std::pair<Fd, Fd>> connect(const model::UnixSocket& accepted, const model::UnixSocket& client);
  Result<std::pair<Fd, Fd>> make_pair(const model::UnixSocket& one);

 private:
  Result<void> listen_on(const model::UnixSocket& accepted, const model::UnixSocket& client);
  Result<void> clear_way(const std::string& path);
  Result<void> enter_private_root();

  std::string key_;  // of the listener: serves all connections of one name and owner
  Fd listener_;
  bool is_private_ = false;
};

}  // namespace godwit::runtime
