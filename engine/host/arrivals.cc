#include "engine/host/arrivals.h"

#include <spdlog/spdlog.h>

#include "base/identifier.h"
#include "engine/arrival.h"
#include "engine/host/validate.h"
#include "engine/host/worker_mark.h"

namespace godwit::engine {

using model::ContainerRecord;
using model::WorkerOrder;
using model::WorkerReport;

namespace {

// A connection that has not asked for anything sensible by then is closed.
constexpr int64_t kFirstWordMs = 15'000;

// The peer chose these names, and they become paths.
Result<void> check_record(const ContainerRecord& record) {
  GODWIT_TRY(check_identifier("id", record.id()));
  GODWIT_TRY(validate_hostname(record.hostname()));
  GODWIT_TRY(validate_cidr(record.address()));
  if (!record.gateway().empty()) GODWIT_TRY(validate_gateway(record.gateway(), record.address()));
  GODWIT_TRY(validate_label("environment", record.environment()));
  return validate_label("group", record.anti_affinity_group());
}

}  // namespace

struct Arrivals::Arrival {
  std::optional<ContainerRecord> record;  // being built here
  bool taken = false;                     // its id is ours
  bool arrived = false;
  bool over = false;  // arrived, or undone by the worker
  std::string why;
};

void Arrivals::receive(Fd connection, const std::string& peer) {
  WorkerOrder order;
  *order.mutable_target()->mutable_agent() = host_.settings();
  for (const StoredContainer& container : host_.store.list())
    order.mutable_target()->add_containers(container.record.id());
  auto entry = workers_.start(order, std::move(connection));
  if (!entry) return spdlog::error("{}: {}", peer, entry.error().to_string());
  WorkerProcess& worker = (*entry)->worker();
  Arrival arrival;
  follow(worker, arrival);
  if (auto death = worker.wait()) arrival.why = *death;
  if (!arrival.record || !arrival.taken) {
    if (!arrival.why.empty()) spdlog::warn("{}: {}", peer, arrival.why);
    return;
  }
  const std::string& id = arrival.record->id();
  if (!arrival.over) {
    settle(*arrival.record, arrival.why);
  } else if (!arrival.arrived) {
    spdlog::info("{}: does not come from {}: {}", id, peer, arrival.why);
    // The worker has removed what it made; this finds what it could not.
    if (auto deleted = lifecycle_.delete_all_of(*arrival.record); !deleted)
      spdlog::error("{}: {}", id, deleted.error().to_string());
  }
  if (arrival.arrived) remove_worker_mark(host_.paths(id).directory);
}

void Arrivals::follow(WorkerProcess& worker, Arrival& arrival) {
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
      if (checked) checked = host_.store.add(*arrival.record, Stage::kArriving);
      arrival.taken = checked.has_value();
      if (!checked) {
        spdlog::warn("{}", checked.error().to_string());
        worker.cancel();
        continue;
      }
      const std::string directory = host_.paths(arrival.record->id()).directory;
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
void Arrivals::take_over(const ContainerRecord& record) {
  const std::string& id = record.id();
  const auto pid = host_.find_process(id);
  if (pid) {
    spdlog::info("{}: has arrived and runs as pid {}", id, *pid);
    return log_failure(id, lifecycle_.keep(record, *pid));
  }
  spdlog::error("{}: has arrived: {}", id, pid.error().to_string());
  log_failure(id, host_.store.settle_running(record, 0));
  if (pid.error().code == ESRCH)
    lifecycle_.note_unseen_end(id);  // it ended before anybody could watch it
  else
    log_failure(id, host_.store.settle(id, Stage::kFailed, pid.error().to_string()));
}

// The worker died on the way. Whether the container had been let go says the mark that it leaves then.
void Arrivals::settle(const ContainerRecord& record, const std::string& why) {
  const ContainerPaths paths = host_.paths(record.id());
  if (read_arrival(paths)) {
    spdlog::warn("{}: {}, after it had been let go", record.id(), why);
    remove_worker_mark(paths.directory);
    return take_over(record);
  }
  spdlog::warn("{}: {}; what was built of it is removed", record.id(), why);
  if (auto deleted = lifecycle_.delete_all_of(record); !deleted)
    spdlog::error("{}: {}", record.id(), deleted.error().to_string());
}

}  // namespace godwit::engine
