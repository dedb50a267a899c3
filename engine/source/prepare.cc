// What can be made ahead of the freeze: the replica's container at the target, the link, the parking lot.
#include <fcntl.h>
#include <fmt/format.h>
#include <ctime>

#include "base/clock.h"
#include "base/socket_address.h"
#include "engine/protocol/version.h"
#include "engine/session/host_resources.h"
#include "engine/source/source_session.h"
#include "transport/link_choice.h"

namespace godwit::engine {

using model::ControlMessage;

namespace {
constexpr int64_t kConnectPatienceNs = 5'000'000'000;
constexpr uint32_t kBufferBytes = 1U << 20;
}  // namespace

Result<SourceSession::State> SourceSession::prepare() {
  const auto phase = timeline_.phase("prepare");
  {
    const auto connecting = timeline_.phase("prepare/connect");
    GODWIT_ASSIGN(Fd socket, connect_to_agent(order_.target(),
                                              std::min(deadline_ns_, monotonic_ns() + kConnectPatienceNs)));
    target_.emplace(std::move(socket), "the target " + order_.target());
  }
  target_->set_deadline_ns(deadline_ns_);
  target_->interrupt_on(agent_.fd(), [this] { return agent_.why_interrupted(); });
  faults_.set_connection(target_->socket());
  GODWIT_TRY(faults_.at_step("source.prepare", deadline_ns_));
  GODWIT_TRY(make_record());
  GODWIT_TRY(faults_.at_step("source.undecided", deadline_ns_));
  GODWIT_TRY(greet_target());
  GODWIT_ASSIGN(clock_, measure_clock_difference(*target_));
  GODWIT_ASSIGN(parking_, runtime::ParkingLot::prepare(attachment_));
  GODWIT_ASSIGN(runtime::ConnectionWatch connections,
                runtime::ConnectionWatch::open(attachment_.network_namespace));
  connections_.emplace(std::move(connections));
  return State::kRound;
}

// Before the target hears of the session: it must always find the record that it asks for.
Result<void> SourceSession::make_record() {
  const int64_t now_unix_s = ::time(nullptr);
  GODWIT_ASSIGN(SessionFile file, SessionStore(order_.agent().root())
                                      .create({.side = Side::kSource,
                                               .state = SessionState::kUndecided,
                                               .acknowledged = false,
                                               .changed_unix_s = now_unix_s,
                                               .session = order_.session(),
                                               .container = order_.container().id(),
                                               .uid = order_.container().uid(),
                                               .incarnation = order_.container().incarnation(),
                                               .peer_name = order_.target(),
                                               .peer_addresses = {order_.target()},
                                               .begun_unix_s = now_unix_s,
                                               .payload = {}}));
  file_.emplace(std::move(file));
  return {};
}

// Says what is coming; the target makes its container and answers when it is ready for pages.
Result<void> SourceSession::greet_target() {
  const auto phase = timeline_.phase("prepare/target");
  GODWIT_ASSIGN(const runtime::model::Snapshot snapshot, capture_->snapshot_live());
  ControlMessage message;
  model::Hello& hello = *message.mutable_hello();
  hello.set_version(kProtocolVersion);
  hello.set_session(order_.session());
  hello.set_source_name(order_.agent().name());
  *hello.mutable_source_agents() = order_.agent().advertised();
  *hello.mutable_container() = order_.container();
  *hello.mutable_goals() = order_.goals();
  *hello.mutable_clocks() = snapshot.clocks();
  uint64_t memory_bytes = 0;
  uint32_t state_bytes = 0;
  for (const runtime::CapturedProcess& process : capture_->processes()) {
    // One that has ended meanwhile needs no room.
    memory_bytes += resident_bytes(process.host_pid).value_or(0);
  }
  for (const auto& process : snapshot.processes())
    for (const auto& thread : process.threads())
      state_bytes = std::max(state_bytes, static_cast<uint32_t>(thread.extended_state().size()));
  hello.set_memory_bytes(memory_bytes);
  hello.set_extended_state_bytes(state_bytes);
  hello.set_streams(order_.goals().streams() == 0 ? default_streams() : order_.goals().streams());
  hello.set_buffer_bytes(kBufferBytes);
  GODWIT_TRY(target_->send(message));
  GODWIT_ASSIGN(const ControlMessage answer, target_->expect(ControlMessage::kWelcome));
  return connect_link(answer.welcome());
}

Result<void> SourceSession::connect_link(const model::Welcome& welcome) {
  GODWIT_ASSIGN(const HostPort place, parse_host_port(order_.target()));
  GODWIT_ASSIGN(const auto wish, transport::parse_transport(order_.goals().transport()));
  std::vector<transport::LinkOffer> offers;
  for (const model::LinkOffer& offer : welcome.links())
    offers.push_back({.transport = offer.transport(),
                      .address = offer.address(),
                      .port = offer.port(),
                      .token = offer.token(),
                      .absent = offer.absent()});
  transport::LinkOptions options;
  options.streams = order_.goals().streams() == 0 ? default_streams() : order_.goals().streams();
  options.buffer_bytes = kBufferBytes;
  GODWIT_ASSIGN(
      transport::ChosenLink chosen,
      transport::connect_link(offers, wish, place.host, {.address = {}, .rdma = order_.agent().rdma()},
                              options, deadline_ns_));
  link_ = std::move(chosen.link);
  link_why_ = std::move(chosen.why);
  link_->set_deadline_ns(deadline_ns_);
  model::MigrationEvent event;
  event.mutable_link()->set_transport(link_->name());
  event.mutable_link()->set_why(link_why_);
  report(std::move(event));
  return {};
}

}  // namespace godwit::engine
