// What this host can do, and how to get what it lacks.
#pragma once

#include <string>
#include <vector>

namespace godwit::engine {

// One thing that a host can have or lack.
struct Finding {
  std::string name;
  bool present = false;
  bool required = true;  // without it no container can be run or moved
  std::string value;     // what was found: a version, a size; may be empty
  std::string needed_for;
  std::string how_to_get;  // only if absent
};

// Looks; changes nothing. Takes some 10 ms (runc is asked for its version).
std::vector<Finding> examine_host(const std::string& cni_plugins, const std::string& bridge);

}  // namespace godwit::engine
