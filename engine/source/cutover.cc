// The cutover up to the target's READY: the container is frozen, its network parked, and the last round goes.
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <thread>

#include "base/clock.h"
#include "base/shared_work.h"
#include "engine/session/priority.h"
#include "engine/source/source_session.h"

namespace godwit::engine {

using model::ControlMessage;

namespace {
// A connection in the middle of its handshake, a listener whose queue has not been accepted: gone in a
// moment.
constexpr unsigned kCutoverAttemptsMax = 20;
constexpr unsigned kRetryPauseUs = 5'000;
// How long newcomers are kept waiting for those before them. A client repeats its SYN after a second.
constexpr int64_t kSettleUsMax = 400'000;
// Of a handshake one way is left. What takes longer is nobody's: a scanner, a flood.
constexpr int64_t kHandshakeUsMax = 100'000;
constexpr unsigned kSettlePauseUs = 1'000;

// What the container has to let go before it is moved.
Result<void> unsettled(const runtime::UnheldConnections& found) {
  if (found.unaccepted != 0)
    return fail("carry", "the listener of " + found.unaccepted_at, EAGAIN,
                "a connection waits to be accepted");
  if (found.closing != 0)
    return fail("carry", "the connection of " + found.closing_at, EAGAIN,
                "its program has closed it, and its kernel is still sending");
  return {};
}

// Threads that help this one to scan. Memory that is scanned sooner than they start is not worth any.
size_t scan_helpers(const runtime::MemoryView& view) {
  constexpr uint64_t kBytesPerHelper = uint64_t{512} << 20;
  constexpr size_t kHelpersMax = 7;
  uint64_t bytes = 0;
  for (const runtime::ProcessView& process : view.processes)
    for (const runtime::Vma& vma : process.vmas)
      if (!vma.shared) bytes += vma.end - vma.start;
  const size_t processors = std::max(std::thread::hardware_concurrency(), 1U);
  return std::min({bytes / kBytesPerHelper, processors - 1, kHelpersMax});
}
}  // namespace

Result<SourceSession::State> SourceSession::cutover() {
  GODWIT_TRY(faults_.at_step("source.cutover", deadline_ns_));
  // A task that waits for its next slice of the processor freezes late.
  GODWIT_TRY(throttle_->release());
  throttle_percent_ = 0;
  auto frozen = settle_connections();
  if (frozen) frozen = freeze();
  if (frozen) frozen = send_frozen();
  if (!frozen) {
    const Error& error = frozen.error();
    if (error.code != EAGAIN) return std::unexpected(error);
    if (++cutover_attempts_ < kCutoverAttemptsMax) return retry_later(error);
    return refuse("migrate", order_.container().id(),
                  fmt::format("{} times it was not in a state to be moved; at last: {} {}: {}",
                              cutover_attempts_, error.operation, error.object, error.hint));
  }
  const auto waiting = timeline_.phase("cutover/ready");
  GODWIT_TRY(target_->expect(ControlMessage::kReady));
  GODWIT_TRY(faults_.at_step("source.ready", deadline_ns_));
  // The last moment at which a target that is lost, or a deadline that has passed, still changes the
  // decision.
  GODWIT_TRY(target_->check());
  return State::kCommit;
}

// Nobody new comes in, and the container runs on until what no descriptor leads to is gone: the program has
// accepted its connections, the kernel has sent what was left in closed ones.
Result<void> SourceSession::settle_connections() {
  const auto phase = timeline_.phase("settle");
  parked_ = true;
  GODWIT_TRY(parking_->park_newcomers());
  const int64_t begun_us = monotonic_us();
  for (;;) {
    GODWIT_TRY(target_->check());
    GODWIT_ASSIGN(const runtime::UnheldConnections found, connections_->look());
    const auto settled = unsettled(found);
    const int64_t waited_us = monotonic_us() - begun_us;
    if (settled && (found.handshakes == 0 || waited_us > kHandshakeUsMax)) return {};
    if (waited_us > kSettleUsMax) return settled;
    ::usleep(kSettlePauseUs);
  }
}

Result<void> SourceSession::freeze() {
  adopt_pace(Pace::kUrgent);
  frozen_us_ = monotonic_us();
  auto freezing = timeline_.phase("cutover/freeze");
  frozen_ = true;
  GODWIT_TRY(capture_->freeze());
  freezing.end();
  GODWIT_TRY(faults_.at_step("source.frozen", deadline_ns_));
  const auto parking = timeline_.phase("cutover/park");
  GODWIT_TRY(parking_->park());
  begin_last_look();
  return {};
}

// What the container has closed since it was settled; beside the snapshot, since to walk through the kernel's
// table takes its time. The answer is asked for before the target is told that it has everything.
void SourceSession::begin_last_look() {
  if (last_look_.valid()) last_look_.wait();
  last_look_ = watcher_.run<Result<void>>([this]() -> Result<void> {
    adopt_pace(Pace::kUrgent);
    const auto found = connections_->look();
    adopt_pace(Pace::kBrisk);
    return found ? unsettled(*found) : std::unexpected(found.error());
  });
}

// The state before the pages: to ask a stopped process takes a processor that lets it answer, and the scan
// takes all there are. At the same time the answers waited for the scan.
Result<void> SourceSession::send_frozen() {
  auto memory = timeline_.phase("cutover/memory");
  GODWIT_ASSIGN(const runtime::model::Snapshot layout, capture_->snapshot_frozen_memory());
  GODWIT_TRY(track_new_processes());
  GODWIT_ASSIGN(const runtime::MemoryView view, view_of(layout));
  memory.end();
  SharedWork scan(scan_helpers(view), [] { adopt_pace(Pace::kUrgent); });
  auto snapshotting = timeline_.phase("cutover/snapshot");
  GODWIT_ASSIGN(runtime::model::Snapshot snapshot, capture_->snapshot_frozen());
  snapshotting.end();
  // From here on the cgroup holds it, too: should this process die, it must not run by itself, neither with
  // sockets in repair mode nor after the decision.
  GODWIT_TRY(freezer_->freeze());
  GODWIT_ASSIGN(const uint64_t batches, send_frozen_pages(layout, view, scan));
  GODWIT_TRY(faults_.at_step("source.pages", deadline_ns_));
  GODWIT_TRY(last_look_.get());
  return send_complete(std::move(snapshot), batches);
}

Result<uint64_t> SourceSession::send_frozen_pages(const runtime::model::Snapshot& layout,
                                                  const runtime::MemoryView& view, SharedWork& scan) {
  auto scanning = timeline_.phase("cutover/scan");
  GODWIT_ASSIGN(const runtime::RoundPages due, pages_.begin_round(view, scan));
  GODWIT_TRY(send_layout(layout, due));
  scanning.end();
  const auto sending = timeline_.phase("cutover/pages");
  return send_pages();
}

Result<void> SourceSession::send_complete(runtime::model::Snapshot snapshot, uint64_t batches) {
  const auto phase = timeline_.phase("cutover/complete");
  ControlMessage message;
  model::Complete& complete = *message.mutable_complete();
  complete.set_round(round_);
  complete.set_batches(batches);
  *complete.mutable_snapshot() = std::move(snapshot);
  GODWIT_TRY(target_->send(message));
  frozen_snapshot_ = std::move(*complete.mutable_snapshot());
  GODWIT_TRY(link_->barrier(round_));
  return faults_.at_step("source.complete", deadline_ns_);
}

// The container is in a state that passes by itself: it goes on here for a moment, then another round.
Result<SourceSession::State> SourceSession::retry_later(const Error& error) {
  const auto phase = timeline_.phase("cutover/postponed: " + error.hint);
  if (frozen_) {
    GODWIT_TRY(freezer_->thaw());
    GODWIT_TRY(capture_->thaw());
    frozen_ = false;
  }
  GODWIT_TRY(parking_->unpark({}));
  parked_ = false;
  adopt_pace(Pace::kBrisk);
  ++round_;
  ::usleep(kRetryPauseUs);
  return State::kRound;
}

}  // namespace godwit::engine
