// Names of unix sockets (unix(7)): which socket is bound itself, which one has its name from the listener
// that accepted it, and where a path leads.
#pragma once

#include <set>
#include <string>

#include "base/result.h"
#include "runtime/process/snapshot.pb.h"

namespace godwit::runtime {

enum class AcceptedEnd { kNone, kFirst, kSecond };

// Pure. Which of two connected stream or seqpacket sockets was accepted, by their names and those of all
// listeners. None: a socketpair(2). An error if it cannot be told, or if the other end is bound to a path.
[[nodiscard]] Result<AcceptedEnd> accepted_end(const std::string& first, const std::string& second,
                                               const std::set<std::string>& listeners);

// The directory that the path leads into.
[[nodiscard]] std::string directory_of(const std::string& path);
[[nodiscard]] bool is_path(const std::string& name);
// Its peer has gone, and it has not.
[[nodiscard]] bool is_orphan(const model::UnixSocket& socket);
// A listener, a datagram socket or an unconnected one: the name is its own.
[[nodiscard]] bool is_bound_itself(const model::UnixSocket& socket);

// Fills bound_file of a socket whose path is its own; refuses if that path does not lead to it (any more).
// `root`: of the container; `root_path`: as readlink(2) tells it.
[[nodiscard]] Result<void> locate_bound_file(int socket, int root, const std::string& root_path,
                                             model::UnixSocket& model);

}  // namespace godwit::runtime
