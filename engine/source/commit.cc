// The decision, and the time until the target says that the container runs.
#include <fcntl.h>
#include <poll.h>
#include <spdlog/spdlog.h>
#include <unistd.h>

#include "base/clock.h"
#include "engine/commit/inquiry.h"
#include "engine/session/priority.h"
#include "engine/source/source_session.h"

namespace godwit::engine {

using model::ControlMessage;

namespace {

// After the decision: told, and no reason to stop.
void note(const Result<void>& result) {
  if (!result) spdlog::warn("{}", result.error().to_string());
}

}  // namespace

Result<SourceSession::State> SourceSession::commit() {
  const auto phase = timeline_.phase("cutover/commit");
  GODWIT_TRY(parking_->seal());
  GODWIT_TRY(faults_.at_step("source.sealed", deadline_ns_));
  ControlMessage message;
  message.mutable_deciding();
  GODWIT_TRY(target_->send(message));
  GODWIT_TRY(faults_.at_step("source.deciding", deadline_ns_));
  GODWIT_TRY(write_decision());
  target_->ignore_interrupts();
  note(faults_.at_step("source.committed", deadline_ns_));
  message.mutable_commit();
  auto running = target_->send(message);
  if (running) running = await_running();
  if (!running) {
    spdlog::warn("{}: committed, but the target is silent: {}", order_.container().id(),
                 running.error().to_string());
    return ask_target();
  }
  target_runs_ = true;
  return State::kConclude;
}

// A disk that refuses the write may have it all the same: what it has decides.
Result<void> SourceSession::write_decision() {
  auto written = file_->advance(SessionState::kCommitted);
  committed_ = file_->state() != SessionState::kUndecided;
  return written;
}

// Frames that came for the container go to the target until it has said that it runs and has announced
// itself.
Result<void> SourceSession::await_running() {
  for (;;) {
    pollfd entries[] = {{.fd = target_->socket(), .events = POLLIN, .revents = 0},
                        {.fd = parking_->fd(), .events = POLLIN, .revents = 0}};
    const int64_t left_ms = (deadline_ns_ - monotonic_ns()) / 1'000'000;
    if (left_ms <= 0) return fail("wait for", target_->name(), ETIMEDOUT);
    if (::poll(entries, 2, static_cast<int>(left_ms)) < 0 && errno != EINTR)
      return fail("wait for", target_->name());
    if (entries[1].revents != 0) GODWIT_TRY(hand_over_frames());
    if (entries[0].revents == 0) continue;
    GODWIT_ASSIGN(const ControlMessage message, target_->expect(ControlMessage::kRunning));
    running_us_ = message.running().running_us() - clock_.target_minus_source_us;
    for (const model::TimelineEntry& entry : message.running().timeline()) target_timeline_.push_back(entry);
    adopt_pace(Pace::kBrisk);
    return hand_over_frames();
  }
}

Result<void> SourceSession::hand_over_frames() {
  for (;;) {
    GODWIT_ASSIGN(const auto frame, parking_->read_frame());
    if (!frame) return {};
    ControlMessage message;
    message.mutable_frame()->set_data(frame->data(), frame->size());
    GODWIT_TRY(target_->send(message));
    ++parked_frames_;
  }
}

// The connection broke after the decision. The container is the target's, and stays stopped here until the
// target's agent says what became of it.
Result<SourceSession::State> SourceSession::ask_target() {
  for (;; ::usleep(kAskAgainUs)) {
    const Move move = source_move(file_->state(), Copy::kHeld, ask_other_side(file_->record()));
    if (move.order == Order::kRemoveRemains) {
      running_us_ = monotonic_us();
      target_runs_ = true;
      return State::kConclude;
    }
    if (move.order != Order::kGoOnHere) continue;
    GODWIT_TRY(file_->advance(*move.before));
    committed_ = false;
    return refuse("migrate", order_.container().id(),
                  "the target had it complete and was lost before it let it run; it goes on here");
  }
}

}  // namespace godwit::engine
