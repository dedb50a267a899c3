#include "engine/host/arrivals.h"

#include <spdlog/spdlog.h>

#include "base/clock.h"
#include "engine/protocol/framing.h"
#include "engine/session/host_resources.h"

namespace godwit::engine {

using model::ContainerRecord;
using model::WorkerOrder;
using model::WorkerReport;

Arrivals::Arrivals(Host& host, Workers& workers, Lifecycle& lifecycle, Settlement& settlement)
    : host_(host),
      workers_(workers),
      lifecycle_(lifecycle),
      settlement_(settlement),
      admission_(host, available_memory_bytes) {}

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
  const std::string why = supervise(std::move(connection), hello);
  const auto container = host_.store.find(record.id());
  // It has arrived, or the worker has removed all that it made of it; what it could not, the settlement
  // finds.
  if (!container || container->stage != Stage::kArriving || container->session != hello.session()) return;
  spdlog::info("{}: does not come from {} by its worker: {}", record.id(), peer, why);
  settlement_.begin(*container);
}

// Until the worker has ended. Why, if the container has not arrived.
std::string Arrivals::supervise(Fd connection, const model::Hello& hello) {
  WorkerOrder order;
  *order.mutable_target()->mutable_agent() = host_.settings();
  *order.mutable_target()->mutable_hello() = hello;
  const auto entry = workers_.start(order, std::move(connection));
  if (!entry) return entry.error().to_string();
  WorkerProcess& worker = (*entry)->worker();
  std::string why = follow(worker, Patience(hello.goals().deadline_ms()));
  if (auto death = worker.wait(); death && why.empty()) why = *death;
  return why;
}

std::string Arrivals::follow(WorkerProcess& worker, Patience patience) {
  std::string why;
  for (;;) {
    auto report = worker.next_report(patience.left_ms());
    if (!report) {
      worker.kill();
      return Patience::explain(report.error());
    }
    if (!*report) return why;
    const WorkerReport& said = **report;
    if (said.has_arrived()) {
      patience.end();
      take_over(said.arrived());
      worker.say_kept();
    } else if (said.has_failed()) {
      why = said.failed();
    }
  }
}

// The container runs here: this agent is its keeper from now on. If that cannot be seen now, the settlement
// goes on looking.
void Arrivals::take_over(const ContainerRecord& record) {
  const auto pid = host_.find_process(record.id());
  if (!pid) return log_failure(record.id(), std::unexpected(pid.error()));
  spdlog::info("{}: has arrived and runs as pid {}", record.id(), *pid);
  log_failure(record.id(), lifecycle_.keep(record, *pid));
}

}  // namespace godwit::engine
