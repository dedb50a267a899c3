// Migrations away from this host, as the agent sees them: a worker that reports, a client that listens.
#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <sys/random.h>

#include <array>
#include <condition_variable>
#include <deque>
#include <thread>

#include "base/clock.h"
#include "engine/protocol/peer.h"
#include "runtime/memory/trackers.h"
#include "tools/godwitd/agent.h"
#include "tools/godwitd/worker_mark.h"

namespace godwit::tools {

using engine::model::ContainerRecord;
using engine::model::MigrationEvent;
using engine::model::MigrationGoals;
using engine::model::MigrationResult;
using engine::model::WorkerOrder;

namespace {

constexpr uint64_t kDowntimeUsDefault = 20'000;
constexpr uint64_t kDeadlineMsDefault = 30'000;
constexpr uint64_t kDeadlineMsMax = 3'600'000;
constexpr uint32_t kStreamsMax = 16;
constexpr auto kLookAtClient = std::chrono::milliseconds(50);
constexpr int64_t kCheckMs = 60'000;

Answer<MigrationGoals> complete_goals(MigrationGoals goals) {
  const auto invalid = [](const char* what, const std::string& value, const char* why) {
    return answer_error(grpc::StatusCode::INVALID_ARGUMENT, what, value, why);
  };
  if (goals.downtime_us() == 0) goals.set_downtime_us(kDowntimeUsDefault);
  if (goals.deadline_ms() == 0) goals.set_deadline_ms(kDeadlineMsDefault);
  if (goals.transport().empty()) goals.set_transport("auto");
  if (goals.tracker().empty()) goals.set_tracker("auto");
  if (goals.deadline_ms() > kDeadlineMsMax)
    return invalid("accept the deadline", fmt::format("{} ms", goals.deadline_ms()),
                   "an hour is the longest");
  if (goals.downtime_us() > goals.deadline_ms() * 1000)
    return invalid("accept the downtime", fmt::format("{} us", goals.downtime_us()),
                   "it exceeds the deadline");
  if (goals.streams() > kStreamsMax)
    return invalid("accept the number of streams", std::to_string(goals.streams()), "16 is the most");
  if (goals.transport() != "auto" && goals.transport() != "tcp" && goals.transport() != "rdma")
    return invalid("accept the transport", goals.transport(), "it must be auto, tcp or rdma");
  if (!runtime::is_tracker_name(goals.tracker()))
    return invalid("accept the tracker", goals.tracker(), "it must be auto, uffd, soft-dirty or uffd-sync");
  return goals;
}

// 128 random bits: unique wherever two agents meet.
Result<std::string> new_session_name() {
  std::array<uint64_t, 2> bits{};
  if (::getrandom(bits.data(), sizeof bits, 0) != static_cast<ssize_t>(sizeof bits))
    return fail("name", "a session");
  return fmt::format("{:016x}{:016x}", bits[0], bits[1]);
}

}  // namespace

// Filled by the thread that reads the worker's reports, emptied by the one that serves the client.
struct Agent::Departure {
  std::mutex mutex;
  std::condition_variable changed;
  std::deque<MigrationEvent> events;
  bool reports_over = false;

  // Valid once the reader has ended.
  std::optional<MigrationEvent> last;  // with the result
  bool departed = false;
  std::string broken;  // the worker's line broke, or how the worker died

  void read(WorkerProcess& worker) {
    for (;;) {
      auto report = worker.next_report();
      if (!report) {
        // What it says makes no sense; without an ear it ends its session.
        broken = report.error().to_string();
        worker.kill();
        break;
      }
      if (!*report) break;
      if ((*report)->has_departed()) departed = true;
      if (!(*report)->has_event()) continue;
      if ((*report)->event().has_result()) {
        last = std::move(*(*report)->mutable_event());
        continue;
      }
      const std::lock_guard lock(mutex);
      events.push_back(std::move(*(*report)->mutable_event()));
      changed.notify_all();
    }
    if (auto death = worker.wait()) broken = *death;
    const std::lock_guard lock(mutex);
    reports_over = true;
    changed.notify_all();
  }
};

Answer<void> Agent::migrate(const api::v1::MigrateRequest& request, const Feed& feed,
                            const std::function<bool()>& cancelled) {
  GODWIT_ASSIGN(const MigrationGoals goals, complete_goals(request.goals()));
  GODWIT_ASSIGN(const std::string name, or_internal(new_session_name()));
  if (auto place = engine::parse_host_port(request.target()); !place)
    return answer_error(grpc::StatusCode::INVALID_ARGUMENT, place.error());
  GODWIT_ASSIGN(const StoredContainer container,
                store_.begin(request.id(), "migrate", {Stage::kRunning}, Stage::kMigrating));
  const ContainerRecord& record = container.record;

  WorkerOrder order;
  engine::model::SourceOrder& source = *order.mutable_source();
  *source.mutable_agent() = settings();
  *source.mutable_container() = record;
  source.set_target(request.target());
  *source.mutable_goals() = goals;
  source.set_session(name);
  const int64_t began_us = monotonic_us();
  auto session = Session::start(*this, order, Fd());
  if (!session) {
    GODWIT_TRY(or_internal(store_.settle_running(record, container.pid)));
    return answer_error(grpc::StatusCode::INTERNAL, session.error());
  }
  spdlog::info("{}: migration to {} begins, session {}", record.id(), request.target(), source.session());
  Departure departure;
  follow_departure(**session, record.id(), departure, feed, cancelled);
  session->reset();
  MigrationEvent event;
  if (departure.last) event = *departure.last;
  *event.mutable_result() = conclude_departure(record, departure);
  if (event.at_us() == 0) event.set_at_us(monotonic_us() - began_us);
  feed(event);
  return {};
}

void Agent::follow_departure(Session& session, const std::string& id, Departure& departure, const Feed& feed,
                             const std::function<bool()>& cancelled) {
  const std::string directory = engine::container_paths(options_.root, id).directory;
  if (auto marked = write_worker_mark(directory, session.worker().pid()); !marked)
    spdlog::warn("{}: {}", id, marked.error().to_string());
  std::thread reader([&] { departure.read(session.worker()); });
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
    session.worker().cancel();
    told = true;
  }
  reader.join();
  remove_worker_mark(directory);
}

MigrationResult Agent::conclude_departure(const ContainerRecord& record, Departure& departure) {
  MigrationResult result;
  if (departure.last) result = departure.last->result();
  if (!departure.last) {
    result.set_id(record.id());
    result.set_error(departure.broken.empty() ? "worker ended without a result" : departure.broken);
  }
  if (departure.departed) {
    result.set_container_at("target");
    if (auto erased = store_.erase(record.id()); !erased)
      spdlog::error("{}: {}", record.id(), erased.error().to_string());
  } else {
    result.set_succeeded(false);
    result.set_container_at(settle_departure(record));
  }
  if (result.succeeded())
    spdlog::info("{}: migrated, {} rounds, downtime {} us", record.id(), result.rounds(),
                 result.downtime_us());
  else
    spdlog::warn("{}: migration failed, the container is at the {}: {}", record.id(), result.container_at(),
                 result.error());
  return result;
}

Answer<engine::model::CheckOutcome> Agent::check(const std::string& id) {
  GODWIT_ASSIGN(const StoredContainer container,
                store_.begin(id, "check", {Stage::kRunning}, Stage::kMigrating));
  WorkerOrder order;
  *order.mutable_check()->mutable_agent() = settings();
  *order.mutable_check()->mutable_container() = container.record;
  const auto examine = [&]() -> Result<engine::model::CheckOutcome> {
    GODWIT_ASSIGN(const auto session, Session::start(*this, order, Fd()));
    GODWIT_ASSIGN(auto report, session->worker().next_report(kCheckMs));
    if (report && report->has_check()) return report->check();
    return refuse("check", id, session->worker().wait().value_or("the worker ended without an answer"));
  };
  auto outcome = or_internal(examine());
  GODWIT_TRY(or_internal(store_.settle_running(container.record, container.pid)));
  if (outcome && !outcome->error().empty())
    return answer_error(grpc::StatusCode::INTERNAL, "check", id, outcome->error());
  return outcome;
}

}  // namespace godwit::tools
