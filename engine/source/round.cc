// One round of pre-copy: a live snapshot, the pages that are due, and the policy's decision.
#include <algorithm>

#include "base/clock.h"
#include "engine/heap.h"
#include "engine/memory_view.h"
#include "engine/round_prefix.h"
#include "engine/source/source_session.h"

namespace godwit::engine {

using model::ControlMessage;
using runtime::kPageSize;

Result<SourceSession::State> SourceSession::round() {
  const std::string label = "round " + std::to_string(round_);
  const auto phase = timeline_.phase(label);
  GODWIT_TRY(faults_.at_step(round_ == 0 ? "source.round0" : "source.round", deadline_ns_));
  GODWIT_TRY(target_->check());
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
  measurement.duration_us = static_cast<uint64_t>(monotonic_us() - scan_us);
  measurement.since_last_scan_us = round_ == 0 ? 0 : static_cast<uint64_t>(scan_us - last_scan_us_);
  measurement.throttle_percent = throttle_percent_;
  last_scan_us_ = scan_us;
  return decide_next(measurement, counters_before, due.pages_due);
}

Result<void> SourceSession::track_new_processes() {
  return capture_->visit_new_processes([this](const runtime::CapturedProcess& process,
                                              runtime::Puppet& puppet) -> Result<void> {
    GODWIT_ASSIGN(auto tracker, runtime::make_uffd_async_tracker(process.host_pid, puppet));
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

// Everything that is due, over all streams in turn. Returns the number of batches.
Result<uint64_t> SourceSession::send_pages() {
  uint64_t batches = 0;
  for (uint32_t stream = 0;; stream = (stream + 1) % link_->streams()) {
    GODWIT_ASSIGN(const transport::LinkSender::Buffer buffer, link_->acquire(stream));
    GODWIT_ASSIGN(const size_t used, pages_.fill(buffer.memory.subspan(sizeof(RoundPrefix))));
    if (used == 0) {
      // An empty batch gives the buffer back.
      const RoundPrefix prefix{.magic = RoundPrefix::kMagic, .round = round_};
      std::memcpy(buffer.memory.data(), &prefix, sizeof prefix);
      GODWIT_TRY(link_->submit(buffer, sizeof prefix));
      return batches + 1;
    }
    const RoundPrefix prefix{.magic = RoundPrefix::kMagic, .round = round_};
    std::memcpy(buffer.memory.data(), &prefix, sizeof prefix);
    GODWIT_TRY(link_->submit(buffer, static_cast<uint32_t>(sizeof prefix + used)));
    ++batches;
    if (!frozen_) GODWIT_TRY(target_->check());
  }
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
