#include "engine/session/goals.h"

#include <fmt/format.h>

#include "runtime/memory/trackers.h"
#include "transport/link.h"

namespace godwit::engine {
namespace {
constexpr uint64_t kDowntimeUsDefault = 20'000;
constexpr uint64_t kDeadlineMsDefault = 30'000;
constexpr uint64_t kDeadlineMsMax = 3'600'000;
}  // namespace

Result<model::MigrationGoals> complete_goals(model::MigrationGoals goals) {
  if (goals.downtime_us() == 0) goals.set_downtime_us(kDowntimeUsDefault);
  if (goals.deadline_ms() == 0) goals.set_deadline_ms(kDeadlineMsDefault);
  if (goals.transport().empty()) goals.set_transport("auto");
  if (goals.tracker().empty()) goals.set_tracker("auto");
  if (goals.deadline_ms() > kDeadlineMsMax)
    return refuse("accept the deadline", fmt::format("{} ms", goals.deadline_ms()), "an hour is the longest");
  if (goals.downtime_us() > goals.deadline_ms() * 1000)
    return refuse("accept the downtime", fmt::format("{} us", goals.downtime_us()),
                  "it exceeds the deadline");
  if (goals.streams() > transport::kStreamsMax)
    return refuse("accept the number of streams", std::to_string(goals.streams()),
                  fmt::format("{} is the most", transport::kStreamsMax));
  if (goals.transport() != "auto" && goals.transport() != "tcp" && goals.transport() != "rdma")
    return refuse("accept the transport", goals.transport(), "it must be auto, tcp or rdma");
  if (!runtime::is_tracker_name(goals.tracker()))
    return refuse("accept the tracker", goals.tracker(), "it must be auto, uffd, soft-dirty or uffd-sync");
  return goals;
}

}  // namespace godwit::engine
