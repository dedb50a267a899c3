// The end of a session: of a migration that succeeded, and of one that is rolled back.
#include <signal.h>
#include <spdlog/spdlog.h>
#include <sys/wait.h>

#include <filesystem>

#include "base/clock.h"
#include "engine/session/priority.h"
#include "engine/source/source_session.h"
#include "runtime/memory/digest.h"

namespace godwit::engine {

using model::ControlMessage;

namespace {

// Nothing can be done about these but to say them.
void tell(const std::string& container, const Result<void>& result) {
  if (!result) spdlog::warn("{}: {}", container, result.error().to_string());
}

}  // namespace

Result<SourceSession::State> SourceSession::conclude() {
  timeline_.add("cutover", frozen_us_, running_us_);
  const auto phase = timeline_.phase("conclude");
  Result<void> verification;
  if (order_.goals().verify()) verification = verify();
  ControlMessage farewell;
  farewell.mutable_farewell();
  auto kept = target_->send(farewell);
  if (auto removed = remove_remains(); !removed) return std::unexpected(removed.error());
  if (kept) kept = await_kept();
  if (kept) kept = file_->acknowledge();
  tell(order_.container().id(), kept);
  if (!verification) return std::unexpected(verification.error());
  return State::kEnded;
}

// The stopped remains still hold the memory as it was when it was frozen; the target has kept its digests.
Result<void> SourceSession::verify() {
  const auto phase = timeline_.phase("conclude/verify");
  GODWIT_ASSIGN(const runtime::MemoryView view, view_of(frozen_snapshot_));
  GODWIT_ASSIGN(const auto digests, runtime::digest_memory(view));
  ControlMessage message;
  for (const runtime::SpaceDigest& digest : digests) {
    model::SpaceDigest& entry = *message.mutable_verify()->add_digests();
    entry.set_space_kind(static_cast<uint32_t>(digest.kind));
    entry.set_space_id(digest.space_id);
    entry.set_pages(digest.sum.pages);
    entry.set_digest_low(digest.sum.low);
    entry.set_digest_high(digest.sum.high);
  }
  message.mutable_verify();
  target_->set_deadline_ns(std::max(deadline_ns_, monotonic_ns() + 10'000'000'000));
  GODWIT_TRY(target_->send(message));
  GODWIT_ASSIGN(const ControlMessage answer, target_->expect(ControlMessage::kVerified));
  if (!answer.verified().difference().empty())
    return refuse("verify the memory of", order_.container().id(), answer.verified().difference());
  verified_ = true;
  return {};
}

// Until the target's agent takes orders for the container.
Result<void> SourceSession::await_kept() {
  constexpr int64_t kPatienceNs = 5'000'000'000;
  const auto phase = timeline_.phase("conclude/kept");
  target_->set_deadline_ns(monotonic_ns() + kPatienceNs);
  GODWIT_TRY(target_->expect(ControlMessage::kKept));
  return {};
}

// Written first: whoever finds the remains knows then that they are remains.
Result<void> SourceSession::remove_remains() {
  const auto phase = timeline_.phase("conclude/remove");
  const std::string& id = order_.container().id();
  tell(id, faults_.at_step("source.running"));
  GODWIT_TRY(file_->advance(SessionState::kDeparted));
  tell(id, faults_.at_step("source.departed"));
  removed_ = true;
  tell(id, parking_->forward_elsewhere());
  auto dismantling = timeline_.phase("conclude/dismantle");
  tell(id, capture_->dismantle());
  dismantling.end();
  for (const runtime::CapturedProcess& process : capture_->processes()) ::kill(process.host_pid, SIGKILL);
  // The tracer reaps first; only then do the processes go to their keeper.
  int status = 0;
  while (::waitpid(-1, &status, __WALL) > 0 || errno == EINTR) {
  }
  tell(id, runc_.remove(id, true));
  parking_.reset();
  tell(id, network_.detach({.container_id = id,
                            .address = order_.container().address(),
                            .mac = order_.container().mac(),
                            .bridge = order_.agent().bridge(),
                            .gateway = order_.container().gateway()}));
  tell(id, faults_.at_step("source.removed"));
  model::WorkerReport report;
  report.set_departed(id);
  agent_.report(report);
  return {};
}

// Before the commit: the container runs on here as if nothing had been.
void SourceSession::roll_back(Error& error) {
  const std::string& id = order_.container().id();
  if (frozen_) {
    if (freezer_) tell(id, freezer_->thaw());
    tell(id, capture_->thaw());
    frozen_ = false;
  }
  if (parked_) tell(id, parking_->unpark({}));
  parked_ = false;
  adopt_pace(Pace::kBrisk);
  if (target_) error = target_->prefer_its_words(std::move(error));
  if (target_) target_->abort(error.to_string());
  if (throttle_) tell(id, throttle_->release());
  tell(id, pages_.stop());
  parking_.reset();
  capture_.reset();
  // Only told: nobody but this process could still commit, so "undecided" will do, too (commit/machine.h).
  if (file_ && file_->state() == SessionState::kUndecided) tell(id, file_->advance(SessionState::kAborted));
}

}  // namespace godwit::engine
