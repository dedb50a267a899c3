// READY, the decision, and the first moments of the container's life here.
#include <spdlog/spdlog.h>
#include <unistd.h>

#include "base/clock.h"
#include "engine/commit/inquiry.h"
#include "engine/session/priority.h"
#include "engine/target/target_session.h"

namespace godwit::engine {

using model::ControlMessage;
using runtime::SpaceKind;

// The replica is complete and stopped. What happens now is the source's decision alone.
Result<TargetSession::State> TargetSession::held() {
  GODWIT_TRY(faults_.at_step("target.ready", deadline_ns_));
  // Without an agent the container would have no keeper here: while that can still be said, it is.
  GODWIT_TRY(source_.check());
  ControlMessage ready;
  ready.mutable_ready();
  promised_ = true;
  Result<Evidence> evidence = Evidence::kSilence;
  if (auto sent = source_.send(ready); sent)
    evidence = await_decision();
  else
    evidence = std::unexpected(sent.error());
  if (!evidence)
    spdlog::warn("{} is complete here, but the source is silent: {}", hello_.container().id(),
                 evidence.error().to_string());
  Move move = target_move(file_->state(), Copy::kHeld, evidence.value_or(Evidence::kSilence));
  while (move.order == Order::kAsk) {
    ::usleep(kAskAgainUs);
    move = target_move(file_->state(), Copy::kHeld, ask_other_side(file_->record()));
  }
  return follow(move);
}

Result<Evidence> TargetSession::await_decision() {
  auto message = source_.receive_or_abort();
  // The source has given up before it decided, and says so. Everything else that ends the wait is no
  // evidence.
  if (message && message->has_abort()) return Evidence::kAborted;
  if (!message) return std::unexpected(std::move(message).error());
  if (message->has_commit()) return Evidence::kCommitted;
  return fail("await the decision of", source_.name(), EPROTO, "it sent something else");
}

Result<TargetSession::State> TargetSession::follow(const Move& move) {
  source_.ignore_interrupts();
  if (move.order == Order::kLetRun) {
    if (auto at = faults_.at_step("target.committed", deadline_ns_); !at)
      spdlog::warn("{}", at.error().to_string());
    arming_ = scribe_.run<Result<void>>(
        [this, armed = move.before] { return armed ? file_->advance(*armed) : Result<void>(); });
    return State::kRun;
  }
  promised_ = false;
  return refuse("receive", hello_.container().id(), "the source did not commit: it runs on there");
}

Result<TargetSession::State> TargetSession::let_run() {
  committed_ = true;
  auto running = timeline_.phase("cutover/run");
  GODWIT_TRY(release());
  running.end();
  const int64_t running_us = monotonic_us();
  auto announcing = timeline_.phase("cutover/announce");
  // Peers learn the new place by the container's own next packet too: a failed announcement is no failure.
  if (auto announced = announcer_->announce(); !announced)
    spdlog::warn("{}: {}", hello_.container().id(), announced.error().to_string());
  announcing.end();
  GODWIT_TRY(faults_.at_step("target.thawed"));
  GODWIT_TRY(file_->advance(SessionState::kRunning));
  GODWIT_TRY(faults_.at_step("target.running"));
  promised_ = false;
  ControlMessage message;
  message.mutable_running()->set_running_us(running_us);
  for (const model::TimelineEntry& entry : timeline_.entries())
    *message.mutable_running()->add_timeline() = entry;
  if (auto sent = source_.send(message); !sent)
    spdlog::warn("{} runs here, the source does not listen: {}", hello_.container().id(),
                 sent.error().to_string());
  adopt_pace(Pace::kBrisk);
  model::WorkerReport report;
  *report.mutable_arrived() = hello_.container();
  report.mutable_arrived()->set_incarnation(incarnation_in(file_->record()));
  agent_.report(report);
  return State::kAftercare;
}

// After the decision: everything is tried, what fails is told, and the container is let go. But not before it
// is on the disk that it may have run: that was begun before, and is waited for last.
Result<void> TargetSession::release() {
  const std::string& id = hello_.container().id();
  const auto tell = [&](const Result<void>& result) {
    if (!result) spdlog::error("{}: {}", id, result.error().to_string());
  };
  // All sockets are there, with their sequence numbers: what comes in finds its own.
  loopback_->open();
  tell(port_->open());
  for (const Error& fault : replica_->run()) spdlog::error("{}: {}", id, fault.to_string());
  tell(faults_.at_step("target.released"));
  auto waiting = timeline_.phase("cutover/run/armed");
  GODWIT_TRY(arming_.get());
  waiting.end();
  tell(faults_.at_step("target.armed"));
  tell(freezer_->thaw());
  return {};
}

// The container runs. Frames that reached the source late, and the comparison of memory, if it was wanted.
Result<TargetSession::State> TargetSession::aftercare() {
  auto message = source_.receive();
  if (!message || message->has_farewell()) {
    if (!message)
      spdlog::warn("{}: the source left without a word: {}", hello_.container().id(),
                   message.error().to_string());
    writers_->stop();
    if (message) GODWIT_TRY(confirm_kept());
    return State::kEnded;
  }
  if (message->has_frame()) GODWIT_TRY(take_frame(message->frame()));
  if (message->has_verify()) GODWIT_TRY(answer_verify(message->verify()));
  return State::kAftercare;
}

// The source ends with this: whoever asks here about the container then finds it.
Result<void> TargetSession::confirm_kept() {
  GODWIT_TRY(agent_.await_kept());
  GODWIT_TRY(faults_.at_step("target.kept"));
  GODWIT_TRY(file_->acknowledge());
  ControlMessage message;
  message.mutable_kept();
  return source_.send(message);
}

Result<void> TargetSession::take_frame(const model::Frame& frame) {
  return delivery_->deliver(std::as_bytes(std::span(frame.data().data(), frame.data().size())));
}

Result<void> TargetSession::answer_verify(const model::Verify& verify) {
  std::string difference;
  const auto describe = [](uint32_t kind, uint64_t id) {
    return (kind == static_cast<uint32_t>(SpaceKind::kProcess) ? "pid " : "shared memory ") +
           std::to_string(id);
  };
  if (static_cast<size_t>(verify.digests_size()) != digests_.size())
    difference = "source and target do not have the same processes and shared memory";
  for (const model::SpaceDigest& theirs : verify.digests()) {
    bool equal = false;
    for (const auto& ours : digests_)
      equal = equal || (static_cast<uint32_t>(ours.kind) == theirs.space_kind() &&
                        ours.space_id == theirs.space_id() && ours.sum.pages == theirs.pages() &&
                        ours.sum.low == theirs.digest_low() && ours.sum.high == theirs.digest_high());
    if (!equal && difference.empty())
      difference = "the memory of " + describe(theirs.space_kind(), theirs.space_id()) + " differs";
  }
  ControlMessage answer;
  answer.mutable_verified()->set_difference(difference);
  return source_.send(answer);
}

}  // namespace godwit::engine
