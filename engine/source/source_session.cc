#include "engine/source/source_session.h"

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include "base/clock.h"
#include "engine/session/priority.h"

namespace godwit::engine {

SourceSession::SourceSession(model::SourceOrder order, AgentChannel& agent)
    : order_(std::move(order)),
      paths_(container_paths(order_.agent().root(), order_.container().id())),
      agent_(agent),
      faults_(order_.agent().fault()),
      begun_ns_(monotonic_ns()),
      deadline_ns_(begun_ns_ + static_cast<int64_t>(order_.goals().deadline_ms()) * 1'000'000),
      runc_(runc_root(order_.agent().root()), bundles_root(order_.agent().root()), order_.agent().name()),
      network_(network_root(order_.agent().root()), order_.agent().cni_plugins()) {}

SourceSession::~SourceSession() = default;

const char* SourceSession::name(State state) {
  switch (state) {
    case State::kPreflight:
      return "preflight";
    case State::kPrepare:
      return "prepare";
    case State::kRound:
      return "rounds";
    case State::kCutover:
      return "cutover";
    case State::kCommit:
      return "commit";
    case State::kConclude:
      return "cleanup";
    case State::kEnded:
      return "ended";
    case State::kInvalid:
      break;
  }
  return "invalid";
}

Result<SourceSession::State> SourceSession::step(State state) {
  switch (state) {
    case State::kPreflight:
      return preflight();
    case State::kPrepare:
      return prepare();
    case State::kRound:
      return round();
    case State::kCutover:
      return cutover();
    case State::kCommit:
      return commit();
    case State::kConclude:
      return conclude();
    case State::kEnded:
    case State::kInvalid:
      break;
  }
  return refuse("migrate", order_.container().id(), "the session is in no valid state");
}

model::MigrationResult SourceSession::run() {
  adopt_pace(Pace::kBrisk);
  State state = State::kPreflight;
  State announced = State::kInvalid;
  while (state != State::kEnded) {
    // Nothing is said between the freeze and the commit: that time is the container's.
    if (state != announced && state != State::kCommit)
      report_state(state, state == State::kRound && round_ == 0
                              ? "memory tracked by " + std::string(runtime::name_of(tracker_.kind))
                              : std::string());
    announced = state;
    auto next = step(state);
    if (!next) {
      Error error = std::move(next).error();
      if (!committed_) roll_back(error);
      // What broke first does not matter then: the target's time is up at the same moment.
      const bool resumed = file_ && file_->state() == SessionState::kResumed;
      if (!committed_ && !resumed && monotonic_ns() > deadline_ns_)
        error = {.operation = "migrate",
                 .object = order_.container().id(),
                 .code = ETIMEDOUT,
                 .hint = fmt::format(
                     "its deadline of {} ms has passed{}; raise --deadline", order_.goals().deadline_ms(),
                     state == State::kPrepare ? " before the target was ready: " + error.to_string() : "")};
      error_ = error.to_string();
      report_state(State::kEnded, error_);
      break;
    }
    state = *next;
  }
  return result();
}

void SourceSession::report(model::MigrationEvent event) {
  event.set_at_us(static_cast<int64_t>(elapsed_us()));
  model::WorkerReport report;
  *report.mutable_event() = std::move(event);
  agent_.report(report);
}

void SourceSession::report_state(State state, const std::string& detail) {
  model::MigrationEvent event;
  event.mutable_state()->set_state(state == State::kEnded && !detail.empty() ? "failed" : name(state));
  event.mutable_state()->set_detail(detail);
  report(std::move(event));
}

uint64_t SourceSession::elapsed_us() const {
  return static_cast<uint64_t>(monotonic_ns() - begun_ns_) / 1000;
}

model::MigrationResult SourceSession::result() {
  model::MigrationResult result;
  result.set_succeeded(target_runs_ && error_.empty());
  result.set_id(order_.container().id());
  result.set_error(error_);
  result.set_container_at(target_runs_ ? "target" : committed_ ? "unknown" : "source");
  result.set_rounds(static_cast<uint32_t>(rounds_.size()) + (committed_ ? 1 : 0));
  if (link_) {
    result.set_bytes_sent(link_->counters().bytes);
    result.set_transport(link_->name());
    result.set_transport_reason(link_why_);
  }
  const runtime::PageCounters& counters = pages_.counters();
  result.set_pages_sent(counters.pages_sent);
  result.set_pages_zero(counters.pages_zero);
  result.set_pages_unchanged(counters.pages_unchanged);
  result.set_total_us(elapsed_us());
  if (target_runs_) result.set_downtime_us(static_cast<uint64_t>(running_us_ - frozen_us_));
  result.set_throughput_bytes_per_second(rounds_.empty() ? 0 : throughput_bytes_per_second(rounds_));
  result.set_dirty_bytes_per_second(dirty_bytes_per_second(rounds_));
  result.set_tracker(runtime::name_of(tracker_.kind));
  result.set_verified(verified_);
  result.set_parked_frames(parked_frames_);
  if (!rounds_.empty()) result.set_memory_bytes(rounds_.front().bytes_due);
  for (const runtime::Refusal& refusal : refusals_) {
    model::Refused& refused = *result.add_refusals();
    refused.set_pid(static_cast<uint32_t>(refusal.pid));
    refused.set_object(refusal.object);
    refused.set_reason(refusal.reason);
  }
  const auto add_timeline = [&](const std::vector<model::TimelineEntry>& entries, int64_t shift_us) {
    for (model::TimelineEntry entry : entries) {
      entry.set_start_us(entry.start_us() - shift_us - begun_ns_ / 1000);
      *result.add_timeline() = std::move(entry);
    }
  };
  add_timeline(timeline_.entries(), 0);
  add_timeline(target_timeline_, clock_.target_minus_source_us);
  return result;
}

}  // namespace godwit::engine
