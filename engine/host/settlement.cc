#include "engine/host/settlement.h"

#include <fmt/format.h>
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <chrono>
#include <ctime>
#include <thread>

#include "engine/commit/inquiry.h"

namespace godwit::engine {

using model::ContainerRecord;

namespace {

constexpr auto kAgain = std::chrono::milliseconds(500);
// A worker that was killed is gone at once.
constexpr auto kWorkerEnds = std::chrono::milliseconds(20);
constexpr auto kPatience = std::chrono::seconds(30);
constexpr auto kLookAgain = std::chrono::milliseconds(50);

}  // namespace

Side Settlement::side_of(const StoredContainer& container) {
  return container.stage == Stage::kArriving ? Side::kTarget : Side::kSource;
}

void Settlement::begin(const StoredContainer& container) {
  auto matter = std::make_shared<Case>();
  matter->container = container.record;
  matter->session = container.session;
  matter->side = side_of(container);
  {
    const std::lock_guard lock(mutex_);
    if (!cases_.try_emplace(container.record.id(), matter).second) return;
  }
  std::thread([this, matter] { carry_on(matter); }).detach();
}

std::string Settlement::settle(const StoredContainer& container, const std::function<bool()>& cancelled) {
  // A resolution of its user has ended it already.
  if (container.stage != Stage::kMigrating && container.stage != Stage::kArriving) return "source";
  begin(container);
  std::unique_lock lock(mutex_);
  const auto found = cases_.find(container.record.id());
  // It was over before we could look: the store knows.
  if (found == cases_.end()) return host_.store.find(container.record.id()) ? "source" : "target";
  const std::shared_ptr<Case> matter = found->second;
  const auto patient_until = std::chrono::steady_clock::now() + kPatience;
  while (!matter->over && std::chrono::steady_clock::now() < patient_until && !cancelled())
    changed_.wait_for(lock, kLookAgain);
  return matter->where;
}

void Settlement::carry_on(const std::shared_ptr<Case>& matter) {
  const std::string id = matter->container.id();
  for (;;) {
    const auto over = step(*matter);
    if (over && *over) break;
    if (!over && over.error().to_string() != matter->trouble) {
      matter->trouble = over.error().to_string();
      spdlog::warn("{}: session {} is not settled yet: {}", id, matter->session, matter->trouble);
    }
    std::this_thread::sleep_for(matter->worker_seen ? kWorkerEnds : kAgain);
  }
  const std::lock_guard lock(mutex_);
  matter->over = true;
  matter->where = matter->side == Side::kTarget || host_.store.find(id) ? "source" : "target";
  cases_.erase(id);
  changed_.notify_all();
}

// Whether it is over. An error is of this moment: nothing was done that cannot be done again.
Result<bool> Settlement::step(Case& matter) {
  if (matter.session.empty()) return end_without_record(matter);
  auto file = host_.sessions.claim(matter.session, matter.side);
  matter.worker_seen = !file && file.error().code == EBUSY;
  if (matter.worker_seen) return false;
  if (!file && file.error().code == ENOENT) return end_without_record(matter);
  if (!file) return std::unexpected(std::move(file).error());
  const Copy copy = host_.observe(matter.container.id());
  Move move = matter.side == Side::kSource ? source_move(file->state(), copy, matter.heard)
                                           : target_move(file->state(), copy, matter.heard);
  {
    const std::lock_guard lock(mutex_);
    if (const auto resolved = engine::resolve(file->state(), copy, matter.resolution); resolved)
      move = *resolved;
  }
  spdlog::debug("{}: session {} is {}, the container {}, the other side says {}: {}", matter.container.id(),
                matter.session, to_string(file->state()), to_string(copy), to_string(matter.heard),
                to_string(move.order));
  if (move.order == Order::kWait) return false;
  if (move.order == Order::kAsk) return ask(matter, file->record());
  if (move.before) GODWIT_TRY(file->advance(*move.before));
  GODWIT_TRY(carry_out(matter, move, file->record()));
  if (move.after) GODWIT_TRY(file->advance(*move.after));
  spdlog::info("{}: session {} is settled: {}", matter.container.id(), matter.session,
               to_string(file->state()));
  return true;
}

// The session never came so far that anything was made for it, or there was none: it was only looked at.
Result<bool> Settlement::end_without_record(Case& matter) {
  if (matter.side == Side::kTarget) {
    GODWIT_TRY(destroy(matter.container));
    return true;
  }
  const Move move =
      source_move(SessionState::kUndecided, host_.observe(matter.container.id()), Evidence::kSilence);
  if (move.order == Order::kWait) return false;
  const bool ended = move.order == Order::kNoteEnd;
  GODWIT_TRY(ended ? note_end(matter.container, false) : go_on_here(matter.container, true));
  return true;
}

Result<bool> Settlement::ask(Case& matter, const SessionRecord& record) {
  const std::string& id = matter.container.id();
  if (!matter.silenced) {
    spdlog::warn("{}: session {} is {}; it stays stopped here until {} says what became of it", id,
                 matter.session, to_string(record.state), record.peer_name);
    keep_silent(id);
    matter.silenced = true;
  }
  matter.heard = ask_other_side(record);
  return false;
}

Result<void> Settlement::carry_out(Case& matter, const Move& move, const SessionRecord& record) {
  ContainerRecord container = matter.container;
  container.set_incarnation(incarnation_in(record));
  switch (move.order) {
    case Order::kGoOnHere:
      // A worker that wrote "aborted" had undone everything before.
      return go_on_here(container, record.state != SessionState::kAborted);
    case Order::kNoteEnd:
      return note_end(container, matter.side == Side::kTarget);
    case Order::kNoteLost:
      return note_lost(container.id());
    case Order::kRemoveRemains:
      return lifecycle_.delete_all_of(container);
    case Order::kLetRun:
      container.set_incarnation(record.incarnation + 1);
      return let_run(container);
    case Order::kTakeOver:
      container.set_incarnation(record.incarnation + 1);
      return take_over(container);
    case Order::kDestroy:
      return destroy(container);
    case Order::kFence:
      return fence(container);
    default:
      return refuse("settle", "session " + matter.session, "there is no such order");
  }
}

void Settlement::tidy() {
  const auto records =
      host_.sessions.list([](const Error& error) { spdlog::error("{}", error.to_string()); });
  if (!records) return spdlog::error("{}", records.error().to_string());
  for (const SessionRecord& record : *records) {
    if (!is_final(record.state) || record.acknowledged) continue;
    auto file = host_.sessions.claim(record.session, record.side);
    if (!file) continue;
    bool over = false;
    const Evidence heard = ask_other_side(file->record(), &over);
    const auto stored = host_.store.find(record.container);
    // Somebody has resolved it there although it ran here; two of one container are worse than none.
    if (record.state == SessionState::kRunning && heard == Evidence::kResumed && stored &&
        stored->record.uid() == record.uid && stored->record.incarnation() == record.incarnation + 1)
      log_failure(record.container, fence(stored->record));
    if (over) log_failure(record.container, file->acknowledge());
  }
  log_failure("sessions", host_.sessions.prune(std::time(nullptr)));
}

}  // namespace godwit::engine
