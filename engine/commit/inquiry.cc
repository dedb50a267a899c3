#include "engine/commit/inquiry.h"

#include <spdlog/spdlog.h>

#include "base/clock.h"
#include "base/identifier.h"
#include "engine/protocol/peer.h"

namespace godwit::engine {

using model::ControlMessage;

namespace {

constexpr int64_t kOneQuestionNs = 2'000'000'000;

Result<model::Answer> ask_at(const std::string& address, const SessionRecord& record) {
  const int64_t deadline_ns = monotonic_ns() + kOneQuestionNs;
  GODWIT_ASSIGN(Fd socket, connect_to_agent(address, deadline_ns));
  Peer peer(std::move(socket), "the agent at " + address);
  peer.set_deadline_ns(deadline_ns);
  ControlMessage message;
  model::Inquiry& inquiry = *message.mutable_inquiry();
  inquiry.set_session(record.session);
  inquiry.set_container(record.container);
  inquiry.set_uid(record.uid);
  inquiry.set_incarnation(record.incarnation);
  inquiry.set_side(to_string(record.side));
  inquiry.set_state(to_string(record.state));
  GODWIT_TRY(peer.send(message));
  GODWIT_ASSIGN(ControlMessage answer, peer.expect(ControlMessage::kAnswer));
  return std::move(*answer.mutable_answer());
}

// The one word on the wire, both ways.
Evidence from_wire(model::Answer::Evidence evidence) {
  const auto value = static_cast<int>(evidence);
  const bool known =
      value >= static_cast<int>(Evidence::kNoRecord) && value <= static_cast<int>(Evidence::kRan);
  return known ? static_cast<Evidence>(value) : Evidence::kSilence;
}

// The record that the question is about; its `state` is kInvalid if there is none.
Result<SessionRecord> record_asked_for(const model::Inquiry& inquiry, Side side,
                                       const SessionStore& sessions) {
  auto record = sessions.read(inquiry.session(), side);
  if (!record && record.error().code == ENOENT) return SessionRecord{};
  // A session's name is random: a record of it that speaks of something else is not what was meant.
  if (record && (record->container != inquiry.container() || record->uid != inquiry.uid()))
    return SessionRecord{};
  return record;
}

Result<Evidence> evidence_for(const model::Inquiry& inquiry, Side side, bool worker_lives, SessionState state,
                              const SessionStore& sessions) {
  if (side == Side::kSource) return source_evidence(state, worker_lives);
  // Says all by itself. To find the highest incarnation takes reading all records, which may be many, or
  // damaged.
  if (state == SessionState::kRunning) return target_evidence(state, inquiry.incarnation(), 0);
  GODWIT_ASSIGN(const uint64_t highest, sessions.highest_incarnation(inquiry.uid()));
  return target_evidence(state, inquiry.incarnation(), highest);
}

Result<model::Answer> find_answer(const model::Inquiry& inquiry, const SessionStore& sessions) {
  GODWIT_TRY(check_identifier("session", inquiry.session()));
  GODWIT_TRY(check_identifier("uid", inquiry.uid()));
  const Side side = inquiry.side() == to_string(Side::kTarget) ? Side::kSource : Side::kTarget;
  // In this order: of a worker that is gone the record stays as it is.
  const bool worker_lives = sessions.worker_lives(inquiry.session(), side);
  GODWIT_ASSIGN(const SessionRecord record, record_asked_for(inquiry, side, sessions));
  GODWIT_ASSIGN(const Evidence evidence, evidence_for(inquiry, side, worker_lives, record.state, sessions));
  model::Answer answer;
  answer.set_evidence(static_cast<model::Answer::Evidence>(evidence));
  if (record.state == SessionState::kInvalid) return answer;
  answer.set_state(to_string(record.state));
  if (worker_lives || !is_final(record.state) || !is_final(session_state(inquiry.state()))) return answer;
  // Only a matter of how long the record is kept.
  auto file = sessions.claim(inquiry.session(), side);
  if (file) (void)file->acknowledge();
  return answer;
}

}  // namespace

Evidence ask_other_side(const SessionRecord& record, bool* final) {
  for (const std::string& address : record.peer_addresses) {
    auto answer = ask_at(address, record);
    if (!answer) {
      spdlog::warn("ask what became of {}: {}", record.container, answer.error().to_string());
      continue;
    }
    if (final != nullptr) *final = is_final(session_state(answer->state()));
    return from_wire(answer->evidence());
  }
  return Evidence::kSilence;
}

model::Answer answer_inquiry(const model::Inquiry& inquiry, const SessionStore& sessions) {
  auto answer = find_answer(inquiry, sessions);
  if (answer) return *std::move(answer);
  spdlog::debug("asked for session {}: {}", inquiry.session(), answer.error().to_string());
  model::Answer pending;
  pending.set_evidence(model::Answer::EVIDENCE_PENDING);
  return pending;
}

}  // namespace godwit::engine
