#include "engine/session/worker.h"

#include <signal.h>
#include <spdlog/spdlog.h>

#include <cstdlib>

#include "engine/session/agent_channel.h"
#include "engine/session/heap.h"
#include "engine/session/preflight_check.h"
#include "engine/source/source_session.h"
#include "engine/target/target_session.h"

namespace godwit::engine {
namespace {

int migrate(model::SourceOrder order, AgentChannel& agent) {
  SourceSession session(std::move(order), agent);
  model::WorkerReport report;
  model::MigrationResult result = session.run();
  report.mutable_event()->set_at_us(static_cast<int64_t>(result.total_us()));
  *report.mutable_event()->mutable_result() = std::move(result);
  agent.report(report);
  if (session.leaves_remains()) std::_Exit(0);
  return 0;
}

int receive(model::TargetOrder order, Fd connection, AgentChannel& agent) {
  TargetSession session(std::move(order), std::move(connection), agent);
  const auto outcome = session.run();
  if (!outcome) spdlog::warn("{}", outcome.error().to_string());
  if (!outcome && session.leaves_replica()) std::_Exit(0);
  return 0;
}

int check(const model::CheckOrder& order, AgentChannel& agent) {
  model::WorkerReport report;
  *report.mutable_check() = check_container(order);
  agent.report(report);
  return 0;
}

}  // namespace

int run_worker(Fd agent, Fd connection) {
  // A peer that is gone is an error of the write, not the end of this process.
  if (::signal(SIGPIPE, SIG_IGN) == SIG_ERR) return 1;
  // It is for the tracer alone (puppet.h): every thread started from here on inherits this.
  sigset_t child_signal;
  ::sigemptyset(&child_signal);
  ::sigaddset(&child_signal, SIGCHLD);
  if (::pthread_sigmask(SIG_BLOCK, &child_signal, nullptr) != 0) return 1;
  keep_heap();
  AgentChannel channel(std::move(agent));
  auto order = channel.receive_order();
  if (!order) {
    spdlog::error("{}", order.error().to_string());
    return 1;
  }
  switch (order->order_case()) {
    case model::WorkerOrder::kSource:
      return migrate(std::move(*order->mutable_source()), channel);
    case model::WorkerOrder::kTarget:
      return receive(std::move(*order->mutable_target()), std::move(connection), channel);
    case model::WorkerOrder::kCheck:
      return check(order->check(), channel);
    case model::WorkerOrder::kCancel:
    case model::WorkerOrder::kKept:
    case model::WorkerOrder::ORDER_NOT_SET:
      break;
  }
  spdlog::error("the agent's order is none that a worker knows");
  return 1;
}

}  // namespace godwit::engine
