// The source's greeting: may this container come here at all?
#include <algorithm>
#include <cctype>

#include "base/clock.h"
#include "base/identifier.h"
#include "base/socket_address.h"
#include "engine/inquiry.h"
#include "engine/protocol/version.h"
#include "engine/session/host_resources.h"
#include "engine/target/target_session.h"

namespace godwit::engine {

using model::ControlMessage;

namespace {
constexpr uint64_t kDeadlineMsMax = 24ULL * 3600 * 1000;
// Kept free for the host itself.
constexpr uint64_t kMemoryReserveBytes = 64ULL << 20;
}  // namespace

Result<TargetSession::State> TargetSession::greet() {
  GODWIT_ASSIGN(ControlMessage message, source_.receive());
  if (message.has_inquiry()) {
    GODWIT_TRY(check_identifier("container id", message.inquiry().container()));
    GODWIT_TRY(answer_inquiry(source_, message.inquiry(), order_.agent()));
    return State::kEnded;
  }
  if (!message.has_hello())
    return fail("greet", source_.name(), EPROTO, "its first message is neither a Hello nor an Inquiry");
  hello_ = std::move(*message.mutable_hello());
  auto welcome = check_hello();
  if (welcome) welcome = check_room();
  if (welcome) welcome = listen_for_link();
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

Result<void> TargetSession::check_hello() const {
  const std::string& id = hello_.container().id();
  if (hello_.version() != kProtocolVersion)
    return refuse("receive", "a container",
                  "the source speaks protocol version " + std::to_string(hello_.version()) + ", this agent " +
                      std::to_string(kProtocolVersion) + ": run the same godwitd on both");
  GODWIT_TRY(check_identifier("container id", id));
  GODWIT_TRY(check_identifier("session", hello_.session()));
  if (hello_.source_name() == order_.agent().name())
    return refuse("receive", id, "source and target are both named " + order_.agent().name());
  if (std::ranges::find(order_.containers(), id) != order_.containers().end())
    return refuse("receive", id, "host " + order_.agent().name() + " has a container of this name already");
  if (hello_.goals().deadline_ms() == 0 || hello_.goals().deadline_ms() > kDeadlineMsMax)
    return refuse("receive", id, "its deadline makes no sense");
  if (hello_.streams() == 0 || hello_.streams() > transport::kStreamsMax ||
      hello_.buffer_bytes() > transport::kBufferBytesMax)
    return refuse("receive", id, "its link options make no sense");
  if (hello_.extended_state_bytes() > extended_state_bytes())
    return refuse("receive", id,
                  "its threads have processor state that this processor lacks (choose a host with the same "
                  "instruction set extensions)");
  return {};
}

Result<void> TargetSession::check_room() const {
  GODWIT_ASSIGN(const uint64_t available, available_memory_bytes());
  if (hello_.memory_bytes() + kMemoryReserveBytes > available)
    return refuse("receive", hello_.container().id(),
                  "it has " + std::to_string(hello_.memory_bytes() >> 20) + " MiB in memory and host " +
                      order_.agent().name() + " has " + std::to_string(available >> 20) + " MiB free");
  return {};
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
