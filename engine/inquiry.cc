#include "engine/inquiry.h"

#include <spdlog/spdlog.h>
#include <unistd.h>

#include <filesystem>

#include "base/clock.h"
#include "engine/arrival.h"
#include "engine/journal.h"
#include "engine/paths.h"

namespace godwit::engine {

using model::Answer;
using model::ControlMessage;

namespace {

constexpr int64_t kOneQuestionNs = 2'000'000'000;
constexpr unsigned kPauseUs = 500'000;

Result<Answer::Decision> ask_once(const std::string& address, const std::string& session,
                                  const std::string& container) {
  const int64_t deadline_ns = monotonic_ns() + kOneQuestionNs;
  GODWIT_ASSIGN(Fd socket, connect_to_agent(address, deadline_ns));
  Peer peer(std::move(socket), "the agent at " + address);
  peer.set_deadline_ns(deadline_ns);
  ControlMessage message;
  message.mutable_inquiry()->set_session(session);
  message.mutable_inquiry()->set_container(container);
  GODWIT_TRY(peer.send(message));
  GODWIT_ASSIGN(const ControlMessage answer, peer.expect(ControlMessage::kAnswer));
  return answer.answer().decision();
}

Answer::Decision decision_of(const model::Inquiry& inquiry, const model::AgentSettings& agent) {
  const ContainerPaths paths = container_paths(agent.root(), inquiry.container());
  // At the target: the mark of an arrival that has been let go.
  if (auto arrived = read_arrival(paths); arrived && *arrived == inquiry.session())
    return Answer::DECISION_RUNNING;
  auto entry = Journal::read(paths.journal);
  if (!entry) {
    // No journal: a source removes it only when it has rolled back, or after the target said that it runs.
    return entry.error().code == ENOENT && std::filesystem::exists(paths.record) ? Answer::DECISION_SOURCE
                                                                                 : Answer::DECISION_PENDING;
  }
  if (entry->session != inquiry.session()) return Answer::DECISION_SOURCE;
  return entry->committed ? Answer::DECISION_COMMITTED : Answer::DECISION_PENDING;
}

}  // namespace

Result<int64_t> ask_until(const std::string& address, const std::string& session,
                          const std::string& container, Answer::Decision hoped) {
  for (;; ::usleep(kPauseUs)) {
    auto decision = ask_once(address, session, container);
    if (!decision) {
      spdlog::warn("ask what became of {}: {}", container, decision.error().to_string());
    } else if (*decision == hoped) {
      return monotonic_us();
    } else if (*decision == Answer::DECISION_SOURCE) {
      return refuse("complete the migration of", container, "it was not committed and stays at the source");
    }
  }
}

Result<void> answer_inquiry(Peer& peer, const model::Inquiry& inquiry, const model::AgentSettings& agent) {
  ControlMessage message;
  message.mutable_answer()->set_decision(decision_of(inquiry, agent));
  return peer.send(message);
}

}  // namespace godwit::engine
