// Everything that can refuse a migration before anything is touched.
#include <fmt/format.h>
#include <unistd.h>

#include "engine/session/preflight_check.h"
#include "engine/source/source_session.h"
#include "transport/link_choice.h"

namespace godwit::engine {
namespace {
constexpr unsigned kStandstillAttemptsMax = 20;
constexpr unsigned kStandstillPauseUs = 5'000;
}  // namespace

Result<SourceSession::State> SourceSession::preflight() {
  const auto phase = timeline_.phase("preflight");
  GODWIT_TRY(faults_.at_step("source.preflight", deadline_ns_));
  GODWIT_ASSIGN(const auto transport, transport::parse_transport(order_.goals().transport()));
  if (transport == transport::TransportWish::kRdma)
    GODWIT_TRY(transport::check_rdma({.address = {}, .rdma = order_.agent().rdma()}));
  const std::string& tracker = order_.goals().tracker();
  GODWIT_ASSIGN(tracker_,
                runtime::choose_tracker(tracker.empty() ? "auto" : tracker, runtime::tracking_abilities()));
  make_tracker_ =
      runtime::tracker_factory(tracker_.kind, [this](const auto& step) { return while_frozen(step); });

  GODWIT_ASSIGN(const pid_t init_pid, runc_.init_pid(order_.container().id()));
  GODWIT_ASSIGN(runtime::Freezer freezer, runtime::Freezer::open(init_pid));
  freezer_.emplace(std::move(freezer));
  GODWIT_ASSIGN(attachment_, network_.find(order_.container().id()));
  GODWIT_ASSIGN(capture_, runtime::Capture::open({.init_pid = init_pid,
                                                  .log_path = paths_.log,
                                                  .freeze_cgroup = [this] { return freeze_cgroup(); },
                                                  .thaw_cgroup = [this] { return freezer_->thaw(); },
                                                  .list_cgroup = [this] { return freezer_->processes(); }}));
  GODWIT_ASSIGN(const std::vector<runtime::Refusal> refusals, lasting_refusals(*capture_, attachment_));
  GODWIT_TRY(refuse_if_any(refusals));
  GODWIT_ASSIGN(runtime::CpuThrottle throttle, runtime::CpuThrottle::open(init_pid));
  throttle_.emplace(std::move(throttle));
  return State::kPrepare;
}

Result<void> SourceSession::freeze_cgroup() {
  const auto phase = timeline_.phase("cutover/freeze/cgroup");
  return freezer_->freeze();
}

// A step of a tracker in a round of pre-copy (runtime::Standstill). Should this process die in it, the agent
// thaws the container.
Result<void> SourceSession::while_frozen(const std::function<Result<void>()>& step) {
  const auto phase = timeline_.phase("round " + std::to_string(round_) + "/standstill");
  frozen_ = true;
  auto stopped = freezer_->freeze();
  // It runs between the attempts: a thread that is in the kernel gets on.
  for (unsigned i = 1; i < kStandstillAttemptsMax && !stopped && stopped.error().code == EAGAIN; ++i) {
    ::usleep(kStandstillPauseUs);
    stopped = freezer_->freeze();
  }
  GODWIT_TRY(stopped);
  GODWIT_TRY(faults_.at_step("source.standstill", deadline_ns_));
  auto outcome = step();
  GODWIT_TRY(freezer_->thaw());
  frozen_ = false;
  return outcome;
}

Result<void> SourceSession::refuse_if_any(const std::vector<runtime::Refusal>& refusals) {
  if (refusals.empty()) return {};
  refusals_ = refusals;
  const runtime::Refusal& first = refusals.front();
  std::string why = fmt::format("pid {} {}: {}", first.pid, first.object, first.reason);
  if (refusals.size() > 1)
    why += fmt::format(", and {} more (godwit check {})", refusals.size() - 1, order_.container().id());
  return refuse("migrate", order_.container().id(), why);
}

}  // namespace godwit::engine
