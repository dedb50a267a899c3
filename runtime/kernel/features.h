// What this kernel and this process can do of what Godwit needs, found by trying, never by version.
//
// Threads: probe_features() may be called on any; it starts and reaps short-lived children and leaves
// nothing.
#pragma once

#include <string>
#include <vector>

namespace godwit::runtime {

struct Feature {
  std::string name;  // "userfaultfd WP_ASYNC"
  bool present = false;
  bool required = false;   // no migration without it
  std::string needed_for;  // "tracking written pages"
  std::string remedy;      // how to get it; for people
};

// Some milliseconds.
[[nodiscard]] std::vector<Feature> probe_features();
// The names of required features that are missing.
[[nodiscard]] std::vector<std::string> missing_features(const std::vector<Feature>& features);

}  // namespace godwit::runtime
