#include "runtime/memory/trackers.h"

#include <array>

namespace godwit::runtime {
namespace {

struct Candidate {
  TrackerKind kind;
  const char* name;
  bool TrackingAbilities::*present;
  const char* needs;
  const char* why;
};

// The order of preference.
constexpr std::array kCandidates{
    Candidate{TrackerKind::kUffdAsync, "uffd", &TrackingAbilities::uffd_async,
              "userfaultfd WP_ASYNC and PAGEMAP_SCAN (Linux 6.7)",
              "it neither stops nor delays the container"},
    Candidate{TrackerKind::kSoftDirty, "soft-dirty", &TrackingAbilities::soft_dirty,
              "soft-dirty bits (CONFIG_MEM_SOFT_DIRTY)",
              "it delays no write, and stops the container briefly "
              "in each round"},
    Candidate{TrackerKind::kUffdSync, "uffd-sync", &TrackingAbilities::uffd_sync,
              "userfaultfd write-protection that pagemap shows (Linux 5.13)",
              "the first write to each page waits for the migration"}};

}  // namespace

const char* name_of(TrackerKind kind) {
  for (const Candidate& candidate : kCandidates)
    if (candidate.kind == kind) return candidate.name;
  return "";
}

bool is_tracker_name(std::string_view name) {
  if (name == "auto") return true;
  for (const Candidate& candidate : kCandidates)
    if (candidate.name == name) return true;
  return false;
}

Result<TrackerChoice> choose_tracker(std::string_view wanted, const TrackingAbilities& abilities) {
  if (!is_tracker_name(wanted))
    return refuse("track memory by", std::string(wanted), "it must be auto, uffd, soft-dirty or uffd-sync");
  std::string missing;
  for (const Candidate& candidate : kCandidates) {
    if (wanted != "auto" && wanted != candidate.name) continue;
    if (abilities.*candidate.present)
      return TrackerChoice{candidate.kind,
                           missing.empty() ? std::string(candidate.why)
                                           : std::string(candidate.why) + "; this kernel lacks " + missing};
    missing += (missing.empty() ? "" : ", and ") + std::string(candidate.needs);
  }
  return refuse(
      "track memory by", std::string(wanted),
      "this kernel lacks " + missing + (wanted == "auto" ? "" : "; --tracker auto takes what there is"));
}

}  // namespace godwit::runtime
