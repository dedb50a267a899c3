// The way out of a session whose other host never comes back.
#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include "engine/commit/inquiry.h"
#include "engine/host/settlement.h"

namespace godwit::engine {
namespace {

constexpr const char* kOperation = "resolve";
constexpr auto kCarriedOutIn = std::chrono::seconds(30);

std::unexpected<Denial> deny_now(const std::string& id, std::string why) {
  return deny(DenialKind::kFailedPrecondition, kOperation, id, std::move(why));
}

// It says something that the session can go on with. One that has lost its record never will.
bool is_answer(Evidence evidence) {
  return evidence != Evidence::kSilence && evidence != Evidence::kNoRecord;
}

}  // namespace

Reply<ResolutionView> Settlement::resolve(const std::string& id, Resolution resolution,
                                          const std::string& peer) {
  if (resolution != Resolution::kRunsHere && resolution != Resolution::kGone)
    return deny(DenialKind::kInvalidArgument, kOperation, id, "either it runs here, or it is gone");
  GODWIT_ASSIGN(const StoredContainer container, host_.store.find(id));
  constexpr const char* kNothing = "no migration of it waits for another host's answer (see godwit inspect)";
  if (container.session.empty()) return deny_now(id, kNothing);
  const Side side = side_of(container);
  GODWIT_ASSIGN(const SessionRecord record,
                or_internal(host_.sessions.read_patiently(container.session, side)));
  const Copy copy = host_.observe(id);
  const auto move = engine::resolve(record.state, copy, resolution);
  if (!move) return deny_now(id, kNothing);
  ResolutionView view = view_resolution(record, copy, *move);
  if (peer != record.peer_name) return view;
  if (const Evidence heard = ask_other_side(record); is_answer(heard))
    return deny_now(id, fmt::format("{} answers ({}): it is not gone for good, and what it says settles it",
                                    peer, to_string(heard)));
  spdlog::warn("{}: resolved by its user: {}, and {} never comes back", id,
               resolution == Resolution::kRunsHere ? "it runs here" : "it is gone from here", peer);
  GODWIT_TRY(or_internal(host_.sessions.end_worker(container.session, side)));
  begin(container);
  GODWIT_ASSIGN(const SessionState ended, await_resolution(container, resolution));
  const bool here = ended == SessionState::kResumed || ended == SessionState::kRunning;
  if (here != (resolution == Resolution::kRunsHere))
    return deny_now(id, fmt::format("{} has answered meanwhile: the session is {}", peer, to_string(ended)));
  view.done = true;
  return view;
}

// Tells the session's thread, and waits until the session is over. In which state.
Reply<SessionState> Settlement::await_resolution(const StoredContainer& container, Resolution resolution) {
  const std::string& id = container.record.id();
  {
    std::unique_lock lock(mutex_);
    if (const auto found = cases_.find(key_of(container)); found != cases_.end()) {
      const std::shared_ptr<Case> matter = found->second;
      matter->resolution = resolution;
      if (!changed_.wait_for(lock, kCarriedOutIn, [&] { return matter->over; }))
        return deny(DenialKind::kInternal, kOperation, id,
                    "it is not carried out yet, and goes on (see the agent's log, and godwit inspect)");
    }
  }
  // It was over before we could look, or is now: the record knows.
  GODWIT_ASSIGN(const SessionRecord record,
                or_internal(host_.sessions.read_patiently(container.session, side_of(container))));
  return record.state;
}

}  // namespace godwit::engine
