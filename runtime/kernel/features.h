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

// PAGEMAP_SCAN (Linux 6.7). Asked once, remembered.
[[nodiscard]] bool has_pagemap_scan();

// By what this kernel can follow a process's writes; see runtime/memory/trackers.h.
struct TrackingAbilities {
  bool uffd_async = false;  // userfaultfd WP_ASYNC with WP_UNPOPULATED, and PAGEMAP_SCAN (Linux 6.7)
  bool uffd_sync = false;   // userfaultfd write-protection that pagemap shows (5.13)
  bool soft_dirty = false;  // CONFIG_MEM_SOFT_DIRTY
};
// Asked once, remembered; starts a short-lived child.
[[nodiscard]] const TrackingAbilities& tracking_abilities();

// Some milliseconds.
[[nodiscard]] std::vector<Feature> probe_features();
// The names of required features that are missing.
[[nodiscard]] std::vector<std::string> missing_features(const std::vector<Feature>& features);

}  // namespace godwit::runtime
