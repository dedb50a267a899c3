// What is made before the first page comes: network, container, replica, link.
#include <fcntl.h>
#include <poll.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <ctime>
#include <filesystem>

#include "base/clock.h"
#include "base/socket_address.h"
#include "engine/session/clock_sync.h"
#include "engine/target/target_session.h"
#include "runtime/container/cgroup_limits.h"
#include "transport/link_choice.h"

namespace godwit::engine {

using model::ControlMessage;

namespace {
// Time for the processes' clocks to go on from where they were at the source, if the hosts differ.
constexpr const char* kBootIdPath = "/proc/sys/kernel/random/boot_id";

// Where the source's agent can be asked: where it says that it is, and where this connection comes from.
std::vector<std::string> addresses_of_source(const model::Hello& hello, int connection) {
  constexpr int kAddressesMax = 4;
  std::vector<std::string> addresses;
  SocketAddress peer;
  const bool known = ::getpeername(connection, peer.get(), &peer.size) == 0;
  for (const std::string& address : hello.source_agents()) {
    const auto place = parse_host_port(address);
    if (!place || addresses.size() >= kAddressesMax) continue;
    addresses.push_back(address);
    if (!known) continue;
    const auto seen = parse_address(host_of(peer.get()), place->port);
    if (seen && host_and_port_of(*seen) != address) addresses.push_back(host_and_port_of(*seen));
  }
  return addresses;
}

// Waits for the link, or for the end of the session, whichever comes first. An RDMA connection is established
// at the source first (it hears of the acceptance, we of its having heard), which then goes on to measure the
// clocks.
Result<std::unique_ptr<transport::LinkReceiver>> await_link(transport::LinkListener& listener, Peer& source) {
  constexpr int kLookMs = 100;
  for (;;) {
    GODWIT_ASSIGN(auto link, listener.try_accept());
    if (link) return link;
    pollfd entries[] = {{.fd = listener.fd(), .events = POLLIN, .revents = 0},
                        {.fd = source.socket(), .events = POLLIN, .revents = 0}};
    if (::poll(entries, 2, kLookMs) < 0 && errno != EINTR) return fail("wait for the link of", source.name());
    GODWIT_TRY(source.check_ahead());
  }
}
}  // namespace

Result<TargetSession::State> TargetSession::prepare() {
  const auto phase = timeline_.phase("prepare");
  GODWIT_TRY(make_record());
  GODWIT_TRY(faults_.at_step("target.preparing", deadline_ns_));
  GODWIT_TRY(make_container());
  GODWIT_TRY(faults_.at_step("target.container", deadline_ns_));
  GODWIT_TRY(enter_time_namespace());
  GODWIT_TRY(accept_link());
  return State::kRound;
}

// Before anything is made: whoever asks for the session finds it.
Result<void> TargetSession::make_record() {
  const int64_t now_unix_s = ::time(nullptr);
  SessionRecord record{.side = Side::kTarget,
                       .state = SessionState::kPreparing,
                       .acknowledged = false,
                       .changed_unix_s = now_unix_s,
                       .session = hello_.session(),
                       .container = hello_.container().id(),
                       .uid = hello_.container().uid(),
                       .incarnation = hello_.container().incarnation(),
                       .peer_name = hello_.source_name(),
                       .peer_addresses = addresses_of_source(hello_, source_.socket()),
                       .begun_unix_s = now_unix_s,
                       .payload = {}};
  GODWIT_ASSIGN(SessionFile file, SessionStore(order_.agent().root()).create(record));
  file_.emplace(std::move(file));
  return {};
}

Result<void> TargetSession::make_container() {
  const model::ContainerRecord& record = hello_.container();
  std::error_code error;
  std::filesystem::create_directories(paths_.directory, error);
  if (error) return fail("make the directory", paths_.directory, error.value());
  GODWIT_ASSIGN(plan_, open_file(paths_.plan, O_WRONLY | O_CREAT | O_TRUNC, 0600));
  auto networking = timeline_.phase("prepare/network");
  GODWIT_ASSIGN(attachment_, network_.attach(network_spec(), true));
  GODWIT_ASSIGN(delivery_, runtime::FrameDelivery::open(*attachment_));
  GODWIT_ASSIGN(runtime::Announcer announcer, runtime::Announcer::prepare(*attachment_));
  announcer_.emplace(std::move(announcer));
  GODWIT_ASSIGN(runtime::Port port, runtime::Port::prepare(*attachment_));
  port_.emplace(std::move(port));
  GODWIT_ASSIGN(runtime::LoopbackGate loopback,
                runtime::LoopbackGate::prepare(attachment_->network_namespace));
  loopback_.emplace(std::move(loopback));
  loopback_->shut();
  networking.end();
  const auto making = timeline_.phase("prepare/container");
  container_made_ = true;
  GODWIT_ASSIGN(runtime::Placeholder placeholder,
                runc_.run_placeholder({.id = record.id(),
                                       .bundle = record.bundle(),
                                       .hostname = record.hostname(),
                                       .limits = {.memory_bytes = record.memory_limit_bytes(),
                                                  .cpu_millis = record.cpu_millis()},
                                       .network_namespace = attachment_->network_namespace,
                                       .log_path = paths_.log}));
  GODWIT_ASSIGN(runtime::Freezer freezer, runtime::Freezer::open(placeholder.pid));
  freezer_.emplace(std::move(freezer));
  oom_kills_path_ = runtime::oom_kills_path(placeholder.pid).value_or("");  // it only explains
  GODWIT_ASSIGN(replica_, runtime::Replica::adopt({.placeholder_pid = placeholder.pid,
                                                   .channel = std::move(placeholder.channel),
                                                   .placeholder_channel_fd = placeholder.channel_fd,
                                                   .log_path = paths_.log}));
  return {};
}

// CLOCK_MONOTONIC and CLOCK_BOOTTIME must go on where they were (time_namespaces(7)). On the same machine the
// offsets of the source are kept exactly; on another one the difference of the two hosts' clocks is added.
Result<void> TargetSession::enter_time_namespace() {
  const runtime::model::Clocks& clocks = hello_.clocks();
  GODWIT_ASSIGN(std::string boot_id, read_file(kBootIdPath, 4096));
  std::erase(boot_id, '\n');
  std::string source_boot_id = clocks.boot_id();
  std::erase(source_boot_id, '\n');
  int64_t monotonic_offset_ns = clocks.monotonic_offset_ns();
  int64_t boottime_offset_ns = clocks.boottime_offset_ns();
  if (boot_id != source_boot_id) {
    // A little ahead is harmless, behind is not: the time the greeting took is added by not being subtracted.
    monotonic_offset_ns = clocks.monotonic_ns() - clock_ns(CLOCK_MONOTONIC);
    boottime_offset_ns = clocks.boottime_ns() - clock_ns(CLOCK_BOOTTIME);
    constexpr int64_t kMarginNs = 1'000'000'000;
    monotonic_offset_ns += kMarginNs;
    boottime_offset_ns += kMarginNs;
  }
  return replica_->enter_time_namespace(monotonic_offset_ns, boottime_offset_ns);
}

Result<void> TargetSession::accept_link() {
  ControlMessage message;
  model::Welcome& welcome = *message.mutable_welcome();
  welcome.set_target_name(order_.agent().name());
  for (const transport::LinkOffer& offer : listener_->offers()) {
    model::LinkOffer& link = *welcome.add_links();
    link.set_transport(offer.transport);
    link.set_address(offer.address);
    link.set_port(offer.port);
    link.set_token(offer.token);
    link.set_absent(offer.absent);
  }
  GODWIT_TRY(source_.send(message));
  GODWIT_ASSIGN(link_, await_link(*listener_, source_));
  if (const auto& failure = listener_->rdma_failure())
    spdlog::warn("{}: its link goes by {}: {}", hello_.container().id(), link_->name(), failure->to_string());
  listener_.reset();
  link_->set_deadline_ns(deadline_ns_);
  if (hello_.goals().verify()) digest_.emplace(sink_);
  writers_ = std::make_unique<PageWriters>(*link_, sink_);
  GODWIT_TRY(writers_->start(std::clamp(hello_.streams(), 1U, 4U)));
  source_.interrupt_on(writers_->failure_fd(), [this] { return writers_->failure(); });
  return {};
}

}  // namespace godwit::engine
