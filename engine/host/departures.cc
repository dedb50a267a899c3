#include "engine/host/departures.h"

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <sys/random.h>

#include <array>
#include <condition_variable>
#include <deque>
#include <thread>

#include "base/clock.h"
#include "base/identifier.h"
#include "base/socket_address.h"
#include "engine/host/patience.h"
#include "engine/session/goals.h"

namespace godwit::engine {

using model::ContainerRecord;
using model::MigrationEvent;
using model::MigrationGoals;
using model::MigrationResult;
using model::WorkerOrder;

namespace {

constexpr auto kLookAtClient = std::chrono::milliseconds(50);
constexpr int64_t kCheckMs = 60'000;

}  // namespace

// Filled by the thread that reads the worker's reports, emptied by the one that serves the client.
struct Departures::Departure {
  std::mutex mutex;
  std::condition_variable changed;
  std::deque<MigrationEvent> events;
  bool reports_over = false;

  // Valid once the reader has ended.
  std::optional<MigrationEvent> last;  // with the result
  bool departed = false;
  std::string broken;  // the worker's line broke, or how the worker died

  void read(WorkerProcess& worker, Patience patience) {
    for (;;) {
      auto report = worker.next_report(patience.left_ms());
      if (!report) {
        // What it says makes no sense, or it says nothing. The records know how it goes on.
        broken = patience.explain(report.error());
        worker.kill();
        break;
      }
      if (!*report) break;
      if ((*report)->has_departed()) departed = true;
      if (!(*report)->has_event()) continue;
      // The container runs at the target; what is left takes the time that it takes.
      if ((*report)->event().state().state() == "cleanup") patience.end();
      if ((*report)->event().has_result()) {
        last = std::move(*(*report)->mutable_event());
        continue;
      }
      const std::lock_guard lock(mutex);
      events.push_back(std::move(*(*report)->mutable_event()));
      changed.notify_all();
    }
    if (auto death = worker.wait(); death && broken.empty()) broken = *death;
    const std::lock_guard lock(mutex);
    reports_over = true;
    changed.notify_all();
  }
};

Reply<void> Departures::migrate(const std::string& id, const std::string& target,
                                const MigrationGoals& wishes, const Keeper::Feed& feed,
                                const std::function<bool()>& cancelled) {
  GODWIT_ASSIGN(const MigrationGoals goals, or_invalid(complete_goals(wishes)));
  GODWIT_ASSIGN(const std::string name, or_internal(random_name()));
  GODWIT_TRY(or_invalid(parse_host_port(target)));
  GODWIT_ASSIGN(const StoredContainer container,
                host_.store.begin(id, "migrate", {Stage::kRunning}, Stage::kMigrating, name));
  const ContainerRecord& record = container.record;

  WorkerOrder order;
  model::SourceOrder& source = *order.mutable_source();
  *source.mutable_agent() = host_.settings();
  *source.mutable_container() = record;
  source.set_target(target);
  *source.mutable_goals() = goals;
  source.set_session(name);
  const int64_t began_us = monotonic_us();
  auto entry = workers_.start(order, Fd());
  if (!entry) {
    GODWIT_TRY(or_internal(host_.store.settle_running(record, container.pid)));
    return deny(DenialKind::kInternal, entry.error());
  }
  spdlog::info("{}: migration to {} begins, session {}", record.id(), target, source.session());
  Departure departure;
  follow((*entry)->worker(), record.id(), goals, departure, feed, cancelled);
  entry->reset();
  MigrationEvent event;
  if (departure.last) event = *departure.last;
  *event.mutable_result() = conclude(record, departure, cancelled);
  if (event.at_us() == 0) event.set_at_us(monotonic_us() - began_us);
  feed(event);
  return {};
}

void Departures::follow(WorkerProcess& worker, const std::string& id, const MigrationGoals& goals,
                        Departure& departure, const Keeper::Feed& feed,
                        const std::function<bool()>& cancelled) {
  std::thread reader([&] { departure.read(worker, Patience(goals.deadline_ms())); });
  bool told = false;
  for (bool over = false; !over;) {
    std::deque<MigrationEvent> events;
    {
      std::unique_lock lock(departure.mutex);
      departure.changed.wait_for(lock, kLookAtClient,
                                 [&] { return departure.reports_over || !departure.events.empty(); });
      events.swap(departure.events);
      over = departure.reports_over;
    }
    for (const MigrationEvent& event : events) feed(event);
    if (told || over || !cancelled()) continue;
    spdlog::info("{}: the client has left, its migration is cancelled", id);
    worker.cancel();
    told = true;
  }
  reader.join();
}

MigrationResult Departures::conclude(const ContainerRecord& record, Departure& departure,
                                     const std::function<bool()>& cancelled) {
  MigrationResult result;
  if (departure.last) result = departure.last->result();
  if (!departure.last) {
    result.set_id(record.id());
    result.set_error(departure.broken.empty() ? "worker ended without a result" : departure.broken);
  }
  if (departure.departed) {
    result.set_container_at("target");
    if (auto erased = host_.store.erase(record.id()); !erased)
      spdlog::error("{}: {}", record.id(), erased.error().to_string());
  } else {
    const auto container = host_.store.find(record.id());
    result.set_container_at(container ? settlement_.settle(*container, cancelled) : "target");
  }
  // The worker did not live to see it, or to say it. (One that did may have a complaint all the same: the
  // memory that was compared differs.)
  const bool unseen = !departure.departed || !departure.last;
  if (unseen && result.container_at() == "target") {
    spdlog::warn("{}: {}", record.id(), result.error());
    result.set_succeeded(true);
    result.clear_error();
  }
  if (result.succeeded())
    spdlog::info("{}: migrated, {} rounds, downtime {} us", record.id(), result.rounds(),
                 result.downtime_us());
  else
    spdlog::warn("{}: migration failed, the container is at the {}: {}", record.id(), result.container_at(),
                 result.error());
  return result;
}

Reply<model::CheckOutcome> Departures::check(const std::string& id) {
  GODWIT_ASSIGN(const StoredContainer container,
                host_.store.begin(id, "check", {Stage::kRunning}, Stage::kMigrating));
  WorkerOrder order;
  *order.mutable_check()->mutable_agent() = host_.settings();
  *order.mutable_check()->mutable_container() = container.record;
  const auto examine = [&]() -> Result<model::CheckOutcome> {
    GODWIT_ASSIGN(const auto entry, workers_.start(order, Fd()));
    GODWIT_ASSIGN(auto report, entry->worker().next_report(kCheckMs));
    if (report && report->has_check()) return report->check();
    return refuse("check", id, entry->worker().wait().value_or("the worker ended without an answer"));
  };
  auto outcome = or_internal(examine());
  GODWIT_TRY(or_internal(host_.store.settle_running(container.record, container.pid)));
  if (outcome && !outcome->error().empty()) return deny(DenialKind::kInternal, "check", id, outcome->error());
  return outcome;
}

}  // namespace godwit::engine
