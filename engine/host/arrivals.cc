#include "engine/host/arrivals.h"

#include <spdlog/spdlog.h>

#include "base/clock.h"
#include "engine/arrival.h"
#include "engine/host/worker_mark.h"
#include "engine/protocol/framing.h"
#include "engine/session/host_resources.h"

namespace godwit::engine {

using model::ContainerRecord;
using model::WorkerOrder;
using model::WorkerReport;

// How a worker's session ended.
struct Arrivals::Arrival {
  bool arrived = false;
  bool over = false;  // arrived, or undone by the worker
  std::string why;
};

Arrivals::Arrivals(Host& host, Workers& workers, Lifecycle& lifecycle)
    : host_(host), workers_(workers), lifecycle_(lifecycle), admission_(host, available_memory_bytes) {}

void Arrivals::receive(Fd connection, const std::string& peer, const model::Hello& hello) {
  const auto room = admission_.admit(hello);
  if (!room) {
    spdlog::warn("{}: {}", peer, room.error().to_string());
    model::ControlMessage message;
    message.mutable_refusal()->set_why(room.error().to_string());
    // Nothing was sent on this connection yet: there is room for it, or the peer is gone.
    if (auto sent = send_message(connection.get(), message, monotonic_ns()); !sent)
      spdlog::debug("{}: {}", peer, sent.error().to_string());
    return;
  }
  const ContainerRecord& record = hello.container();
  const Arrival arrival = supervise(std::move(connection), hello);
  if (!arrival.over) return settle(record, arrival.why);
  if (arrival.arrived) return remove_worker_mark(host_.paths(record.id()).directory);
  spdlog::info("{}: does not come from {}: {}", record.id(), peer, arrival.why);
  // The worker has removed what it made; this finds what it could not.
  log_failure(record.id(), lifecycle_.delete_all_of(record));
}

Arrivals::Arrival Arrivals::supervise(Fd connection, const model::Hello& hello) {
  WorkerOrder order;
  *order.mutable_target()->mutable_agent() = host_.settings();
  *order.mutable_target()->mutable_hello() = hello;
  const auto entry = workers_.start(order, std::move(connection));
  if (!entry) return {.arrived = false, .over = true, .why = entry.error().to_string()};
  WorkerProcess& worker = (*entry)->worker();
  const std::string& id = hello.container().id();
  if (auto marked = write_worker_mark(host_.paths(id).directory, worker.pid()); !marked)
    spdlog::warn("{}: {}", id, marked.error().to_string());
  Arrival arrival;
  follow(worker, hello.container(), arrival);
  if (auto death = worker.wait()) arrival.why = *death;
  return arrival;
}

void Arrivals::follow(WorkerProcess& worker, const ContainerRecord& record, Arrival& arrival) {
  for (;;) {
    auto report = worker.next_report();
    if (!report) {
      arrival.why = report.error().to_string();
      return worker.kill();
    }
    if (!*report) return;
    const WorkerReport& said = **report;
    if (said.has_arrived()) {
      arrival.arrived = arrival.over = true;
      take_over(record);
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
