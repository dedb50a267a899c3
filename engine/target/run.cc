// READY, the decision, and the first moments of the container's life here.
#include <spdlog/spdlog.h>

#include "base/clock.h"
#include "engine/arrival.h"
#include "engine/inquiry.h"
#include "engine/session/priority.h"
#include "engine/target/target_session.h"

namespace godwit::engine {

using model::ControlMessage;
using runtime::SpaceKind;

// The replica is complete and stopped. What happens now is the source's decision alone.
Result<TargetSession::State> TargetSession::held() {
  ControlMessage ready;
  ready.mutable_ready();
  GODWIT_TRY(faults_.at_step("target.ready", deadline_ns_));
  // Without an agent the container would have no keeper here: while that can still be said, it is.
  GODWIT_TRY(source_.check());
  auto decided = source_.send(ready);
  if (decided) {
    auto message = source_.receive();
    if (message && message->has_commit()) return State::kRun;
    if (message)
      decided = fail("await the decision of", source_.name(), EPROTO, "it sent something else");
    else
      decided = std::unexpected(message.error());
  }
  spdlog::warn("{} is complete here, but the source is silent: {}", hello_.container().id(),
               decided.error().to_string());
  GODWIT_ASSIGN([[maybe_unused]] const int64_t learned_us,
                ask_until(hello_.source_agent(), hello_.session(), hello_.container().id(),
                          model::Answer::DECISION_COMMITTED));
  return State::kRun;
}

Result<TargetSession::State> TargetSession::let_run() {
  committed_ = true;
  source_.ignore_interrupts();
  auto running = timeline_.phase("cutover/run");
  GODWIT_TRY(runtime::open_port(*attachment_));
  for (const Error& fault : replica_->run())
    spdlog::error("{}: {}", hello_.container().id(), fault.to_string());
  GODWIT_TRY(freezer_->thaw());
  running.end();
  const int64_t running_us = monotonic_us();
  auto announcing = timeline_.phase("cutover/announce");
  // Peers learn the new place by the container's own next packet too: a failed announcement is no failure.
  if (auto announced = announcer_->announce(); !announced)
    spdlog::warn("{}: {}", hello_.container().id(), announced.error().to_string());
  announcing.end();
  ControlMessage message;
  message.mutable_running()->set_running_us(running_us);
  for (const model::TimelineEntry& entry : timeline_.entries())
    *message.mutable_running()->add_timeline() = entry;
  GODWIT_TRY(write_arrival(paths_, hello_.session()));
  if (auto sent = source_.send(message); !sent)
    spdlog::warn("{} runs here, the source does not listen: {}", hello_.container().id(),
                 sent.error().to_string());
  adopt_pace(Pace::kBrisk);
  model::WorkerReport report;
  *report.mutable_arrived() = hello_.container();
  agent_.report(report);
  return State::kAftercare;
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
