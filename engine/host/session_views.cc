#include "engine/host/session_views.h"

#include <fmt/format.h>

#include <algorithm>

#include "engine/host/host.h"

namespace godwit::engine {
namespace {

const char* plan_of(Order order) {
  switch (order) {
    case Order::kGoOnHere:
      return "it goes on here, from where it was stopped";
    case Order::kNoteLost:
      return "it is noted as lost: its processes are gone here, too";
    case Order::kRemoveRemains:
      return "its stopped remains are removed here: it is taken to run there";
    case Order::kLetRun:
      return "it is let run here";
    case Order::kTakeOver:
      return "it runs here already, and stays";
    case Order::kNoteEnd:
      return "it is noted as ended: nothing of it runs here any more";
    case Order::kDestroy:
      return "it is removed here: it is taken to run there, if anywhere";
    default:
      return "nothing, as long as the kernel does not tell what became of its processes";
  }
}

std::string risk_of(Order order, const std::string& peer) {
  switch (order) {
    case Order::kGoOnHere:
    case Order::kLetRun:
      return fmt::format(
          "if {} runs it, now or when it comes back, there are two of it, with one address and one set of "
          "files",
          peer);
    case Order::kRemoveRemains:
    case Order::kDestroy:
      return fmt::format("if {} does not run it, it is lost: there is no other copy", peer);
    default:
      return "none";
  }
}

}  // namespace

Reply<std::vector<SessionView>> view_sessions(const Host& host, const std::string& id) {
  std::vector<SessionView> views;
  const auto note_unreadable = [&](const Error& error) {
    views.push_back({.record = {}, .worker_lives = false, .meaning = {}, .unreadable = error.to_string()});
  };
  GODWIT_ASSIGN(const auto records, or_internal(host.sessions.list(note_unreadable)));
  // list() has the oldest first.
  for (auto record = records.rbegin(); record != records.rend(); ++record) {
    if (!id.empty() && record->container != id) continue;
    const bool worker_lives = host.sessions.worker_lives(record->session, record->side);
    views.push_back({.record = *record,
                     .worker_lives = worker_lives,
                     .meaning = meaning_of(*record, worker_lives),
                     .unreadable = {}});
  }
  return views;
}

Reply<ContainerView> view_container(const Host& host, const std::string& id) {
  ContainerView view;
  auto container = host.store.find(id);
  GODWIT_ASSIGN(view.sessions, view_sessions(host, id));
  const bool known = std::ranges::any_of(
      view.sessions, [](const SessionView& session) { return session.unreadable.empty(); });
  if (!container && !known) return std::unexpected(std::move(container).error());
  if (!container) return view;
  view.container = *std::move(container);
  view.copy = host.observe(id);
  return view;
}

std::string waits_for(const Host& host, const StoredContainer& container) {
  if (container.session.empty()) return {};
  const Side side = container.stage == Stage::kArriving ? Side::kTarget : Side::kSource;
  const auto record = host.sessions.read_patiently(container.session, side);
  return record && waits_for_other_side(record->state) ? record->peer_name : std::string();
}

ResolutionView view_resolution(const SessionRecord& record, Copy copy, const Move& move) {
  return {.done = false,
          .peer = record.peer_name,
          .known = fmt::format("this side of session {} is {}: {}; of its processes the kernel shows: {}",
                               record.session, to_string(record.state), meaning_of(record, false),
                               to_string(copy)),
          .plan = plan_of(move.order),
          .risk = risk_of(move.order, record.peer_name)};
}

}  // namespace godwit::engine
