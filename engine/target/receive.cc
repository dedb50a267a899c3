// The rounds as the target sees them: a layout, its pages, and for the frozen one the whole snapshot.
#include <map>

#include "base/clock.h"
#include "engine/session/clock_sync.h"
#include "engine/session/heap.h"
#include "engine/session/memory_view.h"
#include "engine/session/priority.h"
#include "engine/target/target_session.h"

namespace godwit::engine {

using model::ControlMessage;
using runtime::SpaceKind;

Result<TargetSession::State> TargetSession::round() {
  // Should it be the frozen one, nothing is to be lost by waking up late.
  adopt_pace(Pace::kUrgent);
  GODWIT_ASSIGN(const ControlMessage message, source_.receive());
  if (message.has_clock_probe()) {
    GODWIT_TRY(answer_clock_probe(source_));
    return State::kRound;
  }
  if (!message.has_layout())
    return fail("receive a round from", source_.name(), EPROTO, "it sent something else than a layout");
  return take_layout(message.layout());
}

Result<TargetSession::State> TargetSession::take_layout(const model::Layout& layout) {
  const bool last = layout.snapshot().frozen();
  const std::string label = last ? std::string("cutover") : "round " + std::to_string(layout.round());
  adopt_pace(last ? Pace::kUrgent : Pace::kBrisk);
  GODWIT_TRY(faults_.at_step(last                  ? "target.frozen"
                             : layout.round() == 0 ? "target.round0"
                                                   : "target.round",
                             deadline_ns_));
  auto mapping = timeline_.phase(label + "/memory");
  GODWIT_TRY(replica_->reconcile_memory(layout.snapshot()));
  GODWIT_TRY(set_spaces(layout.snapshot()));
  GODWIT_TRY(apply_discards(layout));
  writers_->open_round(layout.round(), last);
  mapping.end();
  if (last) {
    begin_may_run();
    return State::kFrozen;
  }
  {
    const auto reconciling = timeline_.phase(label + "/reconcile");
    GODWIT_TRY(replica_->reconcile(layout.snapshot()));
  }
  return finish_round(layout);
}

Result<TargetSession::State> TargetSession::finish_round(const model::Layout& layout) {
  const uint32_t round = layout.round();
  GODWIT_ASSIGN(const ControlMessage sent, source_.expect(ControlMessage::kRoundSent));
  if (sent.round_sent().round() != round)
    return fail("finish round " + std::to_string(round) + " of", source_.name(), EPROTO,
                "it speaks of another");
  GODWIT_TRY(writers_->wait_stored(round, sent.round_sent().batches(), deadline_ns_));
  ControlMessage answer;
  answer.mutable_round_stored()->set_round(round);
  GODWIT_TRY(source_.send(answer));
  if (digest_) {
    const auto digesting = timeline_.phase("round " + std::to_string(round) + "/digest");
    GODWIT_TRY(digest_->update(*replica_, layout.snapshot()));
  }
  warm_heap();  // the next may be the last
  return State::kRound;
}

Result<void> TargetSession::apply_discards(const model::Layout& layout) {
  std::map<uint64_t, std::vector<runtime::Replica::Range>> by_process;
  for (const model::DiscardedRange& range : layout.discards()) {
    // What vanished from shared memory comes as zero pages.
    if (range.space_kind() != static_cast<uint32_t>(SpaceKind::kProcess) || range.start() >= range.end())
      return fail("discard pages of", source_.name(), EPROTO, "it names no range of a process");
    by_process[range.space_id()].push_back({.start = range.start(), .end = range.end()});
  }
  for (const auto& [pid, ranges] : by_process)
    GODWIT_TRY(replica_->discard(static_cast<uint32_t>(pid), ranges));
  return {};
}

Result<void> TargetSession::set_spaces(const runtime::model::Snapshot& snapshot) {
  std::vector<runtime::PageSink::Space> spaces;
  for (const auto& process : snapshot.processes()) {
    GODWIT_ASSIGN(const pid_t host_pid, replica_->host_pid(process.pid()));
    runtime::PageSink::Space space{
        .kind = SpaceKind::kProcess, .id = process.pid(), .host_pid = host_pid, .fd = -1, .allowed = {}};
    // Nowhere else: what is not in the snapshot, the puppet's scratch above all, is not the peer's to write.
    for (const auto& mapping : process.memory().mappings()) {
      if (!space.allowed.empty() && space.allowed.back().end == mapping.start())
        space.allowed.back().end = mapping.end();
      else
        space.allowed.push_back({.start = mapping.start(), .end = mapping.end()});
    }
    spaces.push_back(std::move(space));
  }
  for (const auto& object : snapshot.shared_memory()) {
    GODWIT_ASSIGN(const int fd, replica_->shared_memory_fd(object.id()));
    spaces.push_back(
        {.kind = SpaceKind::kSharedMemory, .id = object.id(), .host_pid = 0, .fd = fd, .allowed = {}});
  }
  return sink_.set_spaces(spaces);
}

Result<TargetSession::State> TargetSession::frozen() {
  GODWIT_ASSIGN(ControlMessage message, source_.receive());
  // The source has postponed its cutover: the container runs on there for another round.
  if (message.has_layout()) return take_layout(message.layout());
  if (!message.has_complete())
    return fail("complete the cutover with", source_.name(), EPROTO, "it sent neither Complete nor a layout");
  model::Complete& complete = *message.mutable_complete();
  if (!complete.snapshot().frozen())
    return fail("complete the cutover with", source_.name(), EPROTO,
                "its last snapshot was not taken frozen");
  GODWIT_TRY(faults_.at_step("target.complete", deadline_ns_));
  {
    const auto storing = timeline_.phase("cutover/pages");
    GODWIT_TRY(writers_->wait_stored(complete.round(), complete.batches(), deadline_ns_));
  }
  GODWIT_TRY(complete_replica(complete.snapshot()));
  const auto holding = timeline_.phase("cutover/hold");
  // For whoever lets the replica run if this process dies. It lives no longer than the kernel does: no flush.
  GODWIT_TRY(write_all(plan_.get(), replica_->after_commit().SerializeAsString(), paths_.plan));
  GODWIT_TRY(freezer_->freeze());
  GODWIT_TRY(may_run_.get());
  GODWIT_TRY(faults_.at_step("target.may-run", deadline_ns_));
  GODWIT_TRY(replica_->hold());
  return State::kHeld;
}

// On the disk before Ready is said, and written while the pages come. Should the cutover be postponed, it
// stays: what is not held dies with this process, and then it never ran.
void TargetSession::begin_may_run() {
  if (may_run_.valid()) (void)may_run_.get();
  may_run_ = scribe_.run<Result<void>>([this] { return file_->advance(SessionState::kMayRun); });
}

// The memory is final before the rest is made: nothing of that rest writes to it.
Result<void> TargetSession::complete_replica(const runtime::model::Snapshot& snapshot) {
  std::future<Result<std::vector<runtime::SpaceDigest>>> digests;
  Timeline digest_timeline("target");
  if (digest_) {
    GODWIT_ASSIGN(runtime::MemoryView view, view_of_replica(*replica_, snapshot));
    digests = assistant_.run<Result<std::vector<runtime::SpaceDigest>>>([&, view = std::move(view)] {
      adopt_pace(Pace::kUrgent);
      const auto digesting = digest_timeline.phase("cutover/digest");
      auto outcome = digest_->finish(view);
      adopt_pace(Pace::kBrisk);
      return outcome;
    });
  }
  auto reconciling = timeline_.phase("cutover/reconcile");
  const auto reconciled = replica_->reconcile(snapshot);
  reconciling.end();
  if (digests.valid()) {
    auto outcome = digests.get();
    timeline_.append(digest_timeline);
    GODWIT_TRY(reconciled);
    GODWIT_ASSIGN(digests_, std::move(outcome));
  }
  return reconciled;
}

}  // namespace godwit::engine
