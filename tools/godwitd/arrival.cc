// Migrations to this host: one worker for each accepted connection.
#include <spdlog/spdlog.h>

#include "base/clock.h"
#include "engine/arrival.h"
#include "tools/common/validate.h"
#include "tools/godwitd/agent.h"
#include "tools/godwitd/worker_mark.h"

namespace godwit::tools {

using engine::model::ContainerRecord;
using engine::model::WorkerOrder;
using engine::model::WorkerReport;

namespace {

// A connection that has not asked for anything sensible by then is closed.
constexpr int64_t kFirstWordMs = 15'000;

// The peer chose these names, and they become paths.
Result<void> check_record(const ContainerRecord& record) {
  GODWIT_TRY(validate_id(record.id()));
  GODWIT_TRY(validate_hostname(record.hostname()));
  GODWIT_TRY(validate_cidr(record.address()));
  if (!record.gateway().empty()) GODWIT_TRY(validate_gateway(record.gateway(), record.address()));
  GODWIT_TRY(validate_label("environment", record.environment()));
  return validate_label("group", record.anti_affinity_group());
}

}  // namespace

struct Agent::Arrival {
  std::optional<ContainerRecord> record;  // being built here
  bool taken = false;                     // its id is ours
  bool arrived = false;
  bool over = false;  // arrived, or undone by the worker
  std::string why;
};

void Agent::receive(Fd connection, const std::string& peer) {
  WorkerOrder order;
  *order.mutable_target()->mutable_agent() = settings();
  for (const StoredContainer& container : store_.list())
    order.mutable_target()->add_containers(container.record.id());
  auto session = Session::start(*this, order, std::move(connection));
  if (!session) return spdlog::error("{}: {}", peer, session.error().to_string());
  Arrival arrival;
  follow_arrival(**session, arrival);
  if (auto death = (*session)->worker().wait()) arrival.why = *death;
  if (!arrival.record || !arrival.taken) {
    if (!arrival.why.empty()) spdlog::warn("{}: {}", peer, arrival.why);
    return;
  }
  const std::string& id = arrival.record->id();
  if (!arrival.over) {
    settle_arrival(*arrival.record, arrival.why);
  } else if (!arrival.arrived) {
    spdlog::info("{}: does not come from {}: {}", id, peer, arrival.why);
    // The worker has removed what it made; this finds what it could not.
    if (auto deleted = delete_all_of(*arrival.record); !deleted)
      spdlog::error("{}: {}", id, deleted.error().to_string());
  }
  if (arrival.arrived) remove_worker_mark(engine::container_paths(options_.root, id).directory);
}

void Agent::follow_arrival(Session& session, Arrival& arrival) {
  WorkerProcess& worker = session.worker();
  for (;;) {
    auto report = worker.next_report(arrival.record ? 0 : kFirstWordMs);
    if (!report) {
      arrival.why = report.error().to_string();
      return worker.kill();
    }
    if (!*report) return;
    const WorkerReport& said = **report;
    if (said.has_arriving() && !arrival.record) {
      arrival.record = said.arriving().container();
      auto checked = or_invalid(check_record(*arrival.record));
      if (checked) checked = store_.add(*arrival.record, Stage::kArriving);
      arrival.taken = checked.has_value();
      if (!checked) {
        spdlog::warn("{}", checked.error().error_message());
        worker.cancel();
        continue;
      }
      const std::string directory = engine::container_paths(options_.root, arrival.record->id()).directory;
      if (auto marked = write_worker_mark(directory, worker.pid()); !marked)
        spdlog::warn("{}: {}", arrival.record->id(), marked.error().to_string());
    } else if (said.has_arrived() && arrival.taken) {
      arrival.arrived = arrival.over = true;
      take_over(*arrival.record);
      worker.say_kept();
    } else if (said.has_failed()) {
      arrival.over = true;
      arrival.why = said.failed();
    }
  }
}

// The container runs here: this agent is its keeper from now on.
void Agent::take_over(const ContainerRecord& record) {
  auto pid = runc_.init_pid(record.id());
  auto kept = pid ? keep(record, *pid) : Result<void>(std::unexpected(pid.error()));
  if (kept) return spdlog::info("{}: has arrived and runs as pid {}", record.id(), *pid);
  spdlog::error("{}: has arrived: {}", record.id(), kept.error().to_string());
  if (pid) return;
  // It ended before anybody could watch it.
  if (auto settled = store_.settle_running(record, 0); !settled)
    spdlog::error("{}: {}", record.id(), settled.error().to_string());
  note_unseen_end(record.id());
}

// The worker died on the way. Whether the container had been let go says the mark that it leaves then.
void Agent::settle_arrival(const ContainerRecord& record, const std::string& why) {
  const engine::ContainerPaths paths = engine::container_paths(options_.root, record.id());
  if (engine::read_arrival(paths)) {
    spdlog::warn("{}: {}, after it had been let go", record.id(), why);
    remove_worker_mark(paths.directory);
    return take_over(record);
  }
  spdlog::warn("{}: {}; what was built of it is removed", record.id(), why);
  if (auto deleted = delete_all_of(record); !deleted)
    spdlog::error("{}: {}", record.id(), deleted.error().to_string());
}

}  // namespace godwit::tools
