// One round of pre-copy: a live snapshot, the pages that are due, and the policy's decision.
#include <unistd.h>

#include <algorithm>
#include <cstring>

#include "base/clock.h"
#include "engine/policy/pace.h"
#include "engine/session/heap.h"
#include "engine/session/memory_view.h"
#include "engine/session/priority.h"
#include "engine/session/round_prefix.h"
#include "engine/source/source_session.h"

namespace godwit::engine {

using model::ControlMessage;
using runtime::kPageSize;

Result<SourceSession::State> SourceSession::round() {
  const std::string label = "round " + std::to_string(round_);
  const auto phase = timeline_.phase(label);
  GODWIT_TRY(faults_.at_step(round_ == 0 ? "source.round0" : "source.round", deadline_ns_));
  GODWIT_TRY(target_->check());
  if (round_ == 0) {
    GODWIT_ASSIGN(container_cpus_, throttle_->used_cpus());
    worked_before_us_ = clock_ns(CLOCK_THREAD_CPUTIME_ID) / 1000;
  }
  warm_heap();  // this round may be the last before the cutover

  auto snapshotting = timeline_.phase(label + "/snapshot");
  GODWIT_ASSIGN(const runtime::model::Snapshot snapshot, capture_->snapshot_live());
  GODWIT_TRY(track_new_processes());
  snapshotting.end();

  const runtime::PageCounters counters_before = pages_.counters();
  const uint64_t bytes_before = link_->counters().bytes;
  const int64_t scan_us = monotonic_us();
  auto scanning = timeline_.phase(label + "/scan");
  GODWIT_ASSIGN(const runtime::RoundPages due, begin_pages(snapshot));
  scanning.end();

  auto sending = timeline_.phase(label + "/pages");
  GODWIT_TRY(send_layout(snapshot, due));
  GODWIT_ASSIGN(const uint64_t batches, send_pages());
  adopt_pace(Pace::kBrisk);
  GODWIT_TRY(faults_.at_step(round_ == 0 ? "source.round0.sent" : "source.round.sent", deadline_ns_));
  GODWIT_TRY(link_->barrier(round_));
  sending.end();
  auto reconciling = timeline_.phase(label + "/target");
  ControlMessage sent;
  sent.mutable_round_sent()->set_round(round_);
  sent.mutable_round_sent()->set_batches(batches);
  GODWIT_TRY(target_->send(sent));
  GODWIT_ASSIGN(const ControlMessage stored, target_->expect(ControlMessage::kRoundStored));
  if (stored.round_stored().round() != round_)
    return refuse("finish round " + std::to_string(round_), target_->name(), "it speaks of another round");
  reconciling.end();

  RoundMeasurement measurement;
  measurement.bytes_sent = link_->counters().bytes - bytes_before;
  measurement.bytes_due = due.pages_due * kPageSize;
  measurement.bytes_changed = (pages_.counters().pages_sent - counters_before.pages_sent) * kPageSize;
  measurement.duration_us = static_cast<uint64_t>(monotonic_us() - scan_us);
  measurement.paused_us = paused_us_;
  measurement.since_last_scan_us = round_ == 0 ? 0 : static_cast<uint64_t>(scan_us - last_scan_us_);
  measurement.throttle_percent = throttle_percent_;
  last_scan_us_ = scan_us;
  return decide_next(measurement, counters_before, due.pages_due);
}

Result<void> SourceSession::track_new_processes() {
  return capture_->visit_new_processes([this](const runtime::CapturedProcess& process,
                                              runtime::Puppet& puppet) -> Result<void> {
    GODWIT_ASSIGN(auto tracker, make_tracker_(process.host_pid, puppet));
    pages_.add_process(static_cast<uint64_t>(process.container_pid), process.host_pid, std::move(tracker));
    return {};
  });
}

Result<runtime::RoundPages> SourceSession::begin_pages(const runtime::model::Snapshot& snapshot) {
  GODWIT_ASSIGN(const runtime::MemoryView view, view_of(snapshot));
  return pages_.begin_round(view);
}

Result<runtime::MemoryView> SourceSession::view_of(const runtime::model::Snapshot& snapshot) {
  return make_memory_view(snapshot, capture_->processes(),
                          [this](uint64_t id) { return capture_->shared_memory_fd(id); });
}

Result<void> SourceSession::send_layout(const runtime::model::Snapshot& snapshot,
                                        const runtime::RoundPages& pages) {
  ControlMessage message;
  model::Layout& layout = *message.mutable_layout();
  layout.set_round(round_);
  *layout.mutable_snapshot() = snapshot;
  for (const runtime::Discard& discard : pages.discards) {
    model::DiscardedRange& range = *layout.add_discards();
    range.set_space_kind(static_cast<uint32_t>(discard.space_kind));
    range.set_space_id(discard.space_id);
    range.set_start(discard.range.start);
    range.set_end(discard.range.end);
  }
  return target_->send(message);
}

// Everything that is due, over all streams in turn. Returns the number of batches; the last one is empty and
// gives its buffer back.
Result<uint64_t> SourceSession::send_pages() {
  paused_us_ = 0;
  const int64_t begun_us = monotonic_us();
  const uint64_t bytes_due = pages_.pages_left() * kPageSize;
  uint64_t batches = 0;
  for (uint32_t stream = 0;; stream = (stream + 1) % link_->streams()) {
    const Pace pace = round_ == 0 ? pace_bulk(bytes_due, begun_us) : Pace::kBrisk;
    GODWIT_ASSIGN(const size_t used, send_batch(stream, pace));
    ++batches;
    if (used == 0) return batches;
    if (!frozen_) GODWIT_TRY(target_->check());
  }
}

Result<size_t> SourceSession::send_batch(uint32_t stream, Pace pace) {
  GODWIT_ASSIGN(const transport::LinkSender::Buffer buffer, link_->acquire(stream));
  const size_t room = pace == Pace::kIdle ? kPoliteBatchBytes : buffer.memory.size() - sizeof(RoundPrefix);
  GODWIT_ASSIGN(const size_t used, pages_.fill(buffer.memory.subspan(sizeof(RoundPrefix), room)));
  const RoundPrefix prefix{.magic = RoundPrefix::kMagic, .round = round_, .pace = pace};
  std::memcpy(buffer.memory.data(), &prefix, sizeof prefix);
  GODWIT_TRY(link_->submit(buffer, static_cast<uint32_t>(sizeof prefix + used)));
  return used;
}

// Pauses for what the last batch took from the container, and says how the next one is to be treated.
Pace SourceSession::pace_bulk(uint64_t bytes_due, int64_t begun_us) {
  const uint64_t left = pages_.pages_left() * kPageSize;
  const int64_t time_left_us = (deadline_ns_ - monotonic_ns()) / 1000;
  const double duty = bulk_duty({.container_cpus = container_cpus_,
                                 .round_bytes = bytes_due - left,
                                 .round_bytes_left = left,
                                 .round_elapsed_us = static_cast<uint64_t>(monotonic_us() - begun_us),
                                 .time_left_us = static_cast<uint64_t>(std::max<int64_t>(time_left_us, 0))});
  const Pace pace = duty < 1.0 ? Pace::kIdle : Pace::kBrisk;
  adopt_pace(pace);
  const int64_t worked_us = clock_ns(CLOCK_THREAD_CPUTIME_ID) / 1000;
  const uint64_t pause = pause_us(duty, static_cast<uint64_t>(worked_us - worked_before_us_));
  if (pause != 0) {
    const int64_t paused_us = monotonic_us();
    ::usleep(static_cast<useconds_t>(pause));
    paused_us_ += static_cast<uint64_t>(monotonic_us() - paused_us);
  }
  worked_before_us_ = clock_ns(CLOCK_THREAD_CPUTIME_ID) / 1000;
  return pace;
}

Result<SourceSession::State> SourceSession::decide_next(RoundMeasurement measurement,
                                                        const runtime::PageCounters& before,
                                                        uint64_t pages_due) {
  rounds_.push_back(measurement);
  const PolicyGoals goals{.downtime_us = order_.goals().downtime_us(),
                          .deadline_us = order_.goals().deadline_ms() * 1000};
  const RoundDecision decision = decide(goals, rounds_, elapsed_us());

  model::MigrationEvent event;
  model::RoundDone& done = *event.mutable_round();
  const runtime::PageCounters& now = pages_.counters();
  done.set_round(round_);
  done.set_pages_due(pages_due);
  done.set_pages_sent(now.pages_sent - before.pages_sent);
  done.set_pages_zero(now.pages_zero - before.pages_zero);
  done.set_pages_unchanged(now.pages_unchanged - before.pages_unchanged);
  done.set_bytes_sent(measurement.bytes_sent);
  done.set_duration_us(measurement.duration_us);
  done.set_dirty_bytes_per_second(dirty_bytes_per_second(rounds_));
  done.set_throughput_bytes_per_second(throughput_bytes_per_second(rounds_));
  done.set_throttle_percent(throttle_percent_);
  done.set_decision(decision.reason);
  report(std::move(event));

  ++round_;
  switch (decision.action) {
    case RoundAction::kCutover:
      return State::kCutover;
    case RoundAction::kThrottle:
      throttle_percent_ = decision.throttle_percent;
      GODWIT_TRY(throttle_->limit(throttle_percent_));
      return State::kRound;
    case RoundAction::kAnotherRound:
      return State::kRound;
    case RoundAction::kGiveUp:
    case RoundAction::kInvalid:
      break;
  }
  return refuse("migrate", order_.container().id(), decision.reason);
}

}  // namespace godwit::engine
