// Which of the three dirty trackers is taken.
//
// "auto" takes the first that the kernel has of:
//
//   uffd        The process is stopped for nothing, and never waits for us.
//   soft-dirty  It stands still in each round (7.7 ms for 512 MiB here); shared memory is read whole then.
//   uffd-sync   The first write to each page after each round waits for a thread of ours, and a thread that
//               exits at the wrong moment is not protected from us (runtime/memory/uffd_sync.cc). Only by
//               choice or for want of anything else.
//
// What each costs is measured by bench/trackers.py (docs/performance.md, Trackers).
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "base/result.h"
#include "runtime/kernel/features.h"
#include "runtime/memory/dirty_tracker.h"

namespace godwit::runtime {

enum class TrackerKind { kInvalid = 0, kUffdAsync, kSoftDirty, kUffdSync };

// As the user writes it: "uffd", "soft-dirty", "uffd-sync".
[[nodiscard]] const char* name_of(TrackerKind kind);
// Whether it is one of these names, or "auto".
[[nodiscard]] bool is_tracker_name(std::string_view name);

struct TrackerChoice {
  TrackerKind kind = TrackerKind::kInvalid;
  std::string why;  // for people
};
// A pure function. Refused: a name that is none, a tracker that the kernel has not, or a kernel that has
// none.
[[nodiscard]] Result<TrackerChoice> choose_tracker(std::string_view wanted,
                                                   const TrackingAbilities& abilities);

// Makes trackers of one kind; one per process, which its puppet holds.
using TrackerFactory = std::function<Result<std::unique_ptr<DirtyTracker>>(pid_t pid, Puppet& puppet)>;
// (Linked with runtime/process.)
[[nodiscard]] TrackerFactory tracker_factory(TrackerKind kind, Standstill standstill);

}  // namespace godwit::runtime
