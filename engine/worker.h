// The entry points of a session's worker process. The agent starts itself again (/proc/self/exe) with the
// hidden argument `worker`, a socket pair as fd 3 and, at a target, the accepted control connection as fd 4.
#pragma once

#include <string>

#include "base/fd.h"

namespace godwit::engine {

// Reads one WorkerOrder from `agent`, carries it out, reports; returns the exit status (0: carried out or
// cleanly refused). `connection` is the accepted control connection for a TargetOrder, else invalid.
int run_worker(Fd agent, Fd connection);

// Paths below an agent's --root, for one container. Both the agent and its workers use these and nothing
// else.
struct ContainerPaths {
  std::string directory;  // ROOT/containers/ID
  std::string record;     // its ContainerRecord, JSON
  std::string log;        // stdout and stderr
  std::string journal;    // of a migration under way; absent otherwise
};
ContainerPaths container_paths(const std::string& root, const std::string& id);
std::string runc_root(const std::string& root);     // ROOT/runc
std::string bundles_root(const std::string& root);  // ROOT/bundles
std::string network_root(const std::string& root);  // ROOT/network

}  // namespace godwit::engine
