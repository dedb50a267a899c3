#include "engine/target/target_session.h"

#include <spdlog/spdlog.h>

#include "base/clock.h"
#include "engine/session/priority.h"
#include "runtime/container/cgroup.h"

namespace godwit::engine {

namespace {
// Until the source has said how long it may take.
constexpr int64_t kGreetingPatienceNs = 10'000'000'000;
}  // namespace

TargetSession::TargetSession(model::TargetOrder order, Fd connection, AgentChannel& agent)
    : order_(std::move(order)),
      agent_(agent),
      faults_(order_.agent().fault()),
      source_(std::move(connection), "the source"),
      runc_(runc_root(order_.agent().root()), bundles_root(order_.agent().root()), order_.agent().name()),
      network_(network_root(order_.agent().root()), order_.agent().cni_plugins()) {
  deadline_ns_ = monotonic_ns() + kGreetingPatienceNs;
  source_.set_deadline_ns(deadline_ns_);
  source_.interrupt_on(agent_.fd(), [this] { return agent_.why_interrupted(); });
  faults_.set_connection(source_.socket());
}

TargetSession::~TargetSession() = default;

Result<TargetSession::State> TargetSession::step(State state) {
  switch (state) {
    case State::kGreet:
      return greet();
    case State::kPrepare:
      return prepare();
    case State::kRound:
      return round();
    case State::kFrozen:
      return frozen();
    case State::kHeld:
      return held();
    case State::kRun:
      return let_run();
    case State::kAftercare:
      return aftercare();
    case State::kEnded:
    case State::kInvalid:
      break;
  }
  return refuse("receive", hello_.container().id(), "the session is in no valid state");
}

Result<void> TargetSession::run() {
  adopt_pace(Pace::kBrisk);
  // It mostly waits for the disk, and whenever it is asked a container stands still.
  scribe_.run<bool>([] { return adopt_pace(Pace::kUrgent), true; }).get();
  State state = State::kGreet;
  while (state != State::kEnded) {
    auto next = step(state);
    if (!next) {
      Error error = explain(std::move(next).error());
      if (!promised_ && !committed_) roll_back(error);
      return std::unexpected(std::move(error));
    }
    state = *next;
  }
  return {};
}

runtime::NetworkSpec TargetSession::network_spec() const {
  return {.container_id = hello_.container().id(),
          .address = hello_.container().address(),
          .mac = hello_.container().mac(),
          .bridge = order_.agent().bridge(),
          .gateway = hello_.container().gateway()};
}

// What has been killed fails in many ways, none of which says why.
Error TargetSession::explain(Error error) const {
  if (committed_ || oom_kills_path_.empty()) return error;
  const auto kills = runtime::cgroup_number(oom_kills_path_, "oom_kill");
  if (!kills || *kills == 0) return error;
  return {.operation = "hold the memory of",
          .object = hello_.container().id(),
          .code = ENOMEM,
          .hint = "the kernel's OOM killer ended it on " + order_.agent().name() +
                  ": give that host, or the container's limit, more memory"};
}

void TargetSession::roll_back(const Error& error) {
  const std::string& id = hello_.container().id();
  spdlog::warn("{} does not come here: {}", id.empty() ? "a container" : id, error.to_string());
  const auto tell = [&](const Result<void>& result) {
    if (!result) spdlog::warn("{}: {}", id, result.error().to_string());
  };
  source_.abort(error.to_string());
  if (may_run_.valid()) (void)may_run_.get();  // what it wrote is overwritten below
  if (writers_) writers_->stop();
  if (replica_) tell(replica_->destroy());
  replica_.reset();
  if (freezer_) tell(freezer_->thaw());
  if (container_made_) tell(runc_.remove(id, true));
  delivery_.reset();
  announcer_.reset();
  if (attachment_) tell(network_.detach(network_spec()));
  if (file_) tell(file_->advance(SessionState::kNeverRan));
  model::WorkerReport report;
  report.set_failed(error.to_string());
  agent_.report(report);
}

}  // namespace godwit::engine
