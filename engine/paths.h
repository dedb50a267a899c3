// Paths below an agent's --root. The agent and its workers use these and nothing else.
#pragma once

#include <string>

namespace godwit::engine {

// Of one container.
struct ContainerPaths {
  std::string directory;  // ROOT/containers/ID
  std::string record;     // its ContainerRecord, JSON
  std::string log;        // stdout and stderr
  std::string plan;       // of a held replica: what is left to be done to let it run (heal.h)
};
ContainerPaths container_paths(const std::string& root, const std::string& id);
std::string runc_root(const std::string& root);     // ROOT/runc
std::string bundles_root(const std::string& root);  // ROOT/bundles
std::string network_root(const std::string& root);  // ROOT/network

}  // namespace godwit::engine
