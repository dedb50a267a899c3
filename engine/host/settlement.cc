#include "engine/host/settlement.h"

#include <fmt/format.h>
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <chrono>
#include <ctime>
#include <set>
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

std::string Settlement::key_of(const StoredContainer& container) {
  return container.record.id() + "/" + container.session;
}

void Settlement::begin(const StoredContainer& container) {
  auto matter = std::make_shared<Case>();
  matter->container = container.record;
  matter->session = container.session;
  matter->side = side_of(container);
  {
    const std::lock_guard lock(mutex_);
    if (!cases_.try_emplace(key_of(container), matter).second) return;
  }
  std::thread([this, matter, key = key_of(container)] { carry_on(matter, key); }).detach();
}

std::string Settlement::settle(const StoredContainer& container, const std::function<bool()>& cancelled) {
  // A resolution of its user has ended it already.
  if (container.stage != Stage::kMigrating && container.stage != Stage::kArriving) return "source";
  begin(container);
  std::unique_lock lock(mutex_);
  const auto found = cases_.find(key_of(container));
  // It was over before we could look: the store knows.
  if (found == cases_.end()) return host_.store.find(container.record.id()) ? "source" : "target";
  const std::shared_ptr<Case> matter = found->second;
  const auto patient_until = std::chrono::steady_clock::now() + kPatience;
  while (!matter->over && std::chrono::steady_clock::now() < patient_until && !cancelled())
    changed_.wait_for(lock, kLookAgain);
  return matter->where;
}

void Settlement::carry_on(const std::shared_ptr<Case>& matter, const std::string& key) {
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
  cases_.erase(key);
  changed_.notify_all();
}

// While the store says so. Afterwards the id may be another container's, or that of one that came back.
bool Settlement::is_in_hand(const Case& matter) const {
  const auto stored = host_.store.find(matter.container.id());
  return stored && stored->session == matter.session &&
         (stored->stage == Stage::kMigrating || stored->stage == Stage::kArriving);
}

// Whether it is over. An error is of this moment: nothing was done that cannot be done again.
Result<bool> Settlement::step(Case& matter) {
  if (!matter.left && !is_in_hand(matter)) return true;
  if (matter.session.empty()) return end_without_record(matter);
  auto file = host_.sessions.claim(matter.session, matter.side);
  matter.worker_seen = !file && file.error().code == EBUSY;
  if (matter.worker_seen) return false;
  if (!file && file.error().code == ENOENT) return end_without_record(matter);
  if (!file) return std::unexpected(std::move(file).error());
  if (matter.left) return finish(matter, *file);
  // Two sessions of one name are a peer's doing: the later one never got a record, nor made anything.
  if (matter.side == Side::kTarget && file->record().uid != matter.container.uid())
    return end_without_record(matter);
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
  matter.left = move.after.value_or(file->state());
  return finish(matter, *file);
}

// The order is not carried out again, whatever becomes of this: by then the id may be another container's.
Result<bool> Settlement::finish(Case& matter, SessionFile& file) {
  const bool let_run = file.state() == SessionState::kArmed && matter.left == SessionState::kRunning;
  GODWIT_TRY(file.advance(*matter.left));
  spdlog::info("{}: session {} is settled: {}", matter.container.id(), matter.session,
               to_string(file.state()));
  if (!let_run) return true;
  // After the record: nobody looks for the session of a container that the store calls running.
  matter.left.reset();
  GODWIT_TRY(carry_out(matter, target_move(file.state(), Copy::kRuns, matter.heard), file.record()));
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
    log_failure(id, keep_silent(id));
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
      return lifecycle_.delete_parts_of(container);
    case Order::kLetRun:
      container.set_incarnation(record.incarnation + 1);
      return let_run(container);
    case Order::kTakeOver:
      container.set_incarnation(record.incarnation + 1);
      return take_over(container);
    case Order::kDestroy:
      return destroy(container);
    case Order::kFence:
      return fence(container.id());
    default:
      return refuse("settle", "session " + matter.session, "there is no such order");
  }
}

// Somebody has resolved it there although it ran here; two of one container are worse than none.
bool Settlement::runs_elsewhere_as_more(const SessionRecord& record, Evidence heard) const {
  const bool resumed_there = record.state == SessionState::kRunning && heard == Evidence::kResumed;
  const bool let_run_there = record.state == SessionState::kAborted && heard == Evidence::kRan;
  const auto stored = host_.store.find(record.container);
  const bool lives_here = stored && (stored->stage == Stage::kRunning || stored->stage == Stage::kMigrating);
  return (resumed_there || let_run_there) && lives_here && stored->record.uid() == record.uid &&
         stored->record.incarnation() == incarnation_in(record);
}

Result<void> Settlement::conclude(const SessionRecord& record, Evidence heard, bool over) {
  if (runs_elsewhere_as_more(record, heard)) {
    const auto stored = host_.store.find(record.container);
    // On its way to a third host: if it does not leave, it is looked at again.
    if (!stored || stored->stage != Stage::kRunning) return {};
    GODWIT_TRY(fence(record.container));
  }
  // One that was refused at once has no record there, and nobody who could ask for it later.
  const bool refused = record.state == SessionState::kAborted && heard == Evidence::kNoRecord;
  if (!over && !refused) return {};
  GODWIT_ASSIGN(SessionFile file, host_.sessions.claim(record.session, record.side));
  return file.acknowledge();
}

void Settlement::tidy(const std::function<bool()>& cancelled) {
  const auto records =
      host_.sessions.list([](const Error& error) { spdlog::error("{}", error.to_string()); });
  if (!records) return spdlog::error("{}", records.error().to_string());
  std::set<std::vector<std::string>> silent;  // asked once a time: each question may take seconds
  for (const SessionRecord& record : *records) {
    if (cancelled()) return;
    if (!is_final(record.state) || record.acknowledged || silent.contains(record.peer_addresses) ||
        host_.sessions.worker_lives(record.session, record.side))
      continue;
    bool over = false;
    const Evidence heard = ask_other_side(record, &over);
    if (heard == Evidence::kSilence) silent.insert(record.peer_addresses);
    log_failure(record.container, conclude(record, heard, over));
  }
  log_failure("sessions", host_.sessions.prune(std::time(nullptr)));
}

}  // namespace godwit::engine
