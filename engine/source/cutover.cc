// The cutover up to the target's READY: the container is frozen, its network parked, and the last round goes.
#include <unistd.h>

#include "base/clock.h"
#include "engine/priority.h"
#include "engine/source/source_session.h"

namespace godwit::engine {

using model::ControlMessage;

namespace {
// A connection in the middle of its handshake, a listener whose queue has not been accepted: gone in a
// moment.
constexpr unsigned kCutoverAttemptsMax = 20;
constexpr unsigned kRetryPauseUs = 5'000;
}  // namespace

Result<SourceSession::State> SourceSession::cutover() {
  GODWIT_TRY(faults_.at_step("source.cutover", deadline_ns_));
  become_urgent();
  auto frozen = freeze();
  if (frozen) frozen = send_frozen();
  if (!frozen) {
    if (frozen.error().code == EAGAIN && ++cutover_attempts_ < kCutoverAttemptsMax)
      return retry_later(frozen.error());
    return std::unexpected(frozen.error());
  }
  const auto waiting = timeline_.phase("cutover/ready");
  GODWIT_TRY(target_->expect(ControlMessage::kReady));
  GODWIT_TRY(faults_.at_step("source.ready", deadline_ns_));
  // The last moment at which a target that is lost, or a deadline that has passed, still changes the
  // decision.
  GODWIT_TRY(target_->check());
  return State::kCommit;
}

Result<void> SourceSession::freeze() {
  frozen_us_ = monotonic_us();
  auto freezing = timeline_.phase("cutover/freeze");
  frozen_ = true;
  GODWIT_TRY(capture_->freeze());
  freezing.end();
  GODWIT_TRY(faults_.at_step("source.frozen", deadline_ns_));
  const auto parking = timeline_.phase("cutover/park");
  parked_ = true;
  return parking_->park();
}

Result<void> SourceSession::send_frozen() {
  auto memory = timeline_.phase("cutover/memory");
  GODWIT_ASSIGN(const runtime::model::Snapshot layout, capture_->snapshot_frozen_memory());
  GODWIT_TRY(track_new_processes());
  memory.end();
  auto scanning = timeline_.phase("cutover/scan");
  GODWIT_ASSIGN(const runtime::RoundPages due, begin_pages(layout));
  GODWIT_TRY(send_layout(layout, due));
  scanning.end();
  auto sending = timeline_.phase("cutover/pages");
  ControlMessage message;
  GODWIT_ASSIGN(const uint64_t batches, send_pages());
  sending.end();
  GODWIT_TRY(faults_.at_step("source.pages", deadline_ns_));
  auto snapshotting = timeline_.phase("cutover/snapshot");
  GODWIT_ASSIGN(frozen_snapshot_, capture_->snapshot_frozen());
  *message.mutable_complete()->mutable_snapshot() = frozen_snapshot_;
  snapshotting.end();
  const auto completing = timeline_.phase("cutover/complete");
  message.mutable_complete()->set_round(round_);
  message.mutable_complete()->set_batches(batches);
  GODWIT_TRY(target_->send(message));
  GODWIT_TRY(link_->barrier(round_));
  return faults_.at_step("source.complete", deadline_ns_);
}

// The container is in a state that passes by itself: it goes on here for a moment, then another round.
Result<SourceSession::State> SourceSession::retry_later(const Error& error) {
  const auto phase = timeline_.phase("cutover/postponed: " + error.hint);
  GODWIT_TRY(capture_->thaw());
  frozen_ = false;
  GODWIT_TRY(parking_->unpark({}));
  parked_ = false;
  become_background();
  ++round_;
  ::usleep(kRetryPauseUs);
  return State::kRound;
}

}  // namespace godwit::engine
