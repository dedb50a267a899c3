// The decision, and the time until the target says that the container runs.
#include <fcntl.h>
#include <poll.h>
#include <spdlog/spdlog.h>
#include <unistd.h>

#include "base/clock.h"
#include "engine/inquiry.h"
#include "engine/session/priority.h"
#include "engine/source/source_session.h"

namespace godwit::engine {

using model::ControlMessage;

Result<SourceSession::State> SourceSession::commit() {
  const auto phase = timeline_.phase("cutover/commit");
  GODWIT_TRY(parking_->seal());
  auto written = journal_->commit();
  if (!written) {
    // Only a journal that says "undecided" again allows to go on here; if the disk refuses that too, nobody
    // may.
    if (journal_->overwrite_undecided()) return std::unexpected(written.error());
    committed_ = true;
    return std::unexpected(written.error());
  }
  committed_ = true;
  target_->ignore_interrupts();
  if (auto at = faults_.at_step("source.committed", deadline_ns_); !at)
    spdlog::warn("{}", at.error().to_string());
  ControlMessage message;
  message.mutable_commit();
  auto running = target_->send(message);
  if (running) running = await_running();
  if (!running) {
    spdlog::warn("{}: committed, but the target is silent: {}", order_.container().id(),
                 running.error().to_string());
    GODWIT_TRY(ask_target_until_running());
  }
  target_runs_ = true;
  return State::kConclude;
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

// The connection broke after the commit. The container is the target's; here it stays stopped, and the
// target's agent is asked until it says that the container runs there.
Result<void> SourceSession::ask_target_until_running() {
  GODWIT_ASSIGN(running_us_, ask_until(order_.target(), order_.session(), order_.container().id(),
                                       model::Answer::DECISION_RUNNING));
  return {};
}

}  // namespace godwit::engine
