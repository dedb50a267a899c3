// The answer to a source's greeting that the agent has admitted.
#include "base/clock.h"
#include "base/socket_address.h"
#include "engine/target/target_session.h"

namespace godwit::engine {

using model::ControlMessage;

Result<TargetSession::State> TargetSession::greet() {
  hello_ = order_.hello();
  auto welcome = listen_for_link();
  if (welcome) welcome = faults_.at_step("target.hello", deadline_ns_);
  if (!welcome) {
    ControlMessage refusal;
    refusal.mutable_refusal()->set_why(welcome.error().to_string());
    GODWIT_TRY(source_.send(refusal));
    return std::unexpected(welcome.error());
  }
  deadline_ns_ = monotonic_ns() + static_cast<int64_t>(hello_.goals().deadline_ms()) * 1'000'000;
  source_.set_deadline_ns(deadline_ns_);
  paths_ = container_paths(order_.agent().root(), hello_.container().id());
  return State::kPrepare;
}

// Before anything is made: a transport that this host does not have is a refusal.
Result<void> TargetSession::listen_for_link() {
  GODWIT_ASSIGN(const HostPort listen, parse_host_port(order_.agent().listen_address()));
  GODWIT_ASSIGN(const auto wish, transport::parse_transport(hello_.goals().transport()));
  GODWIT_ASSIGN(
      transport::LinkListener listener,
      transport::LinkListener::listen({.address = listen.host, .rdma = order_.agent().rdma()}, wish));
  listener_.emplace(std::move(listener));
  return {};
}

}  // namespace godwit::engine
