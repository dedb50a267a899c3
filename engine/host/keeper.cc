#include "engine/host/keeper.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <spdlog/spdlog.h>
#include <sys/file.h>
#include <unistd.h>

#include <chrono>
#include <condition_variable>
#include <filesystem>
#include <mutex>

#include "base/clock.h"
#include "base/identifier.h"
#include "engine/commit/inquiry.h"
#include "engine/host/arrivals.h"
#include "engine/host/control_listener.h"
#include "engine/host/departures.h"
#include "engine/host/host.h"
#include "engine/host/lifecycle.h"
#include "engine/host/logs.h"
#include "engine/host/output_log.h"
#include "engine/host/recovery.h"
#include "engine/host/settlement.h"
#include "engine/host/workers.h"
#include "engine/protocol/framing.h"
#include "engine/protocol/session.pb.h"

namespace godwit::engine {

namespace {
// A migration that is cancelled has to thaw its container, or to finish its commit.
constexpr auto kWorkersEndIn = std::chrono::seconds(10);
// For so long may two of one container run after a wrong resolution, once their hosts see each other.
constexpr auto kTidyEvery = std::chrono::seconds(15);

// The cgroups of its containers bear the host's name: under another one none of them would be found, and all
// would be taken to have ended.
Result<void> take_name(const std::string& root, const std::string& name, bool has_containers) {
  const std::string path = root + "/name";
  const auto known = read_file(path, 256);
  if (!known && known.error().code != ENOENT) return std::unexpected(known.error());
  if (known && *known == name + "\n") return {};
  if (known && has_containers)
    return refuse("start as", name,
                  fmt::format("the containers of {} were made under another name: start it with --name {}",
                              root, known->substr(0, known->find('\n'))));
  return replace_file_durably(path, name + "\n");
}

}  // namespace

Keeper::Keeper(KeeperOptions options)
    : host_(std::make_unique<Host>(std::move(options))),
      workers_(std::make_unique<Workers>()),
      lifecycle_(std::make_unique<Lifecycle>(*host_)),
      settlement_(std::make_unique<Settlement>(*host_, *lifecycle_)),
      arrivals_(std::make_unique<Arrivals>(*host_, *workers_, *lifecycle_, *settlement_)),
      recovery_(std::make_unique<Recovery>(*host_, *lifecycle_, *settlement_)),
      departures_(std::make_unique<Departures>(*host_, *workers_, *settlement_)) {}

Keeper::~Keeper() = default;

const KeeperOptions& Keeper::options() const {
  return host_->options;
}

Result<void> Keeper::start() {
  const std::string& root = host_->options.root;
  std::error_code error;
  std::filesystem::create_directories(root, error);
  if (error) return fail("make the directory", root, error.value());
  GODWIT_ASSIGN(root_lock_, open_file(root + "/lock", O_RDWR | O_CREAT, 0600));
  if (::flock(root_lock_.get(), LOCK_EX | LOCK_NB) != 0)
    return fail("lock", root, errno, "another godwitd uses this root");
  for (const std::string& directory : {runc_root(root), bundles_root(root), network_root(root)}) {
    std::filesystem::create_directories(directory, error);
    if (error) return fail("make the directory", directory, error.value());
  }
  GODWIT_TRY(host_->sessions.prepare());
  output_ = OutputLogs::start(root);
  GODWIT_TRY(lifecycle_->start());
  GODWIT_TRY(host_->store.load());
  GODWIT_TRY(take_name(root, host_->options.name, !host_->store.list().empty()));
  recovery_->recover_all();
  const ControlListener::Servants servants{
      .hello = [this](Fd connection, const std::string& peer,
                      const model::Hello& hello) { arrivals_->receive(std::move(connection), peer, hello); },
      .inquiry = [this](Fd connection, const std::string& peer,
                        const model::Inquiry& inquiry) { answer(std::move(connection), peer, inquiry); }};
  GODWIT_ASSIGN(listener_, ControlListener::start(host_->options.listen, servants, {}));
  tidying_ = std::jthread([this](const std::stop_token& ending) { tidy_now_and_then(ending); });
  return {};
}

void Keeper::tidy_now_and_then(const std::stop_token& ending) const {
  std::mutex mutex;
  std::condition_variable_any never;
  std::unique_lock lock(mutex);
  while (!ending.stop_requested()) {
    settlement_->tidy([&] { return ending.stop_requested(); });
    never.wait_for(lock, ending, kTidyEvery, [] { return false; });
  }
}

void Keeper::shut_down() {
  ending_ = true;
  tidying_.request_stop();
  if (listener_) listener_->stop_accepting();
  if (const size_t left = workers_->end(kWorkersEndIn); left != 0)
    spdlog::warn("{} sessions go on without this agent; the next one settles them", left);
  remove_empty_cgroups();
}

void Keeper::answer(Fd connection, const std::string& peer, const model::Inquiry& inquiry) const {
  constexpr int64_t kPatienceNs = 2'000'000'000;
  model::ControlMessage message;
  *message.mutable_answer() = answer_inquiry(inquiry, host_->sessions);
  // Whoever hears that it runs here may ask this agent for it the next moment: it is to know the container
  // then.
  const auto stored = host_->store.find(inquiry.container());
  const bool arriving = stored && stored->stage == Stage::kArriving && stored->session == inquiry.session();
  if (arriving && message.answer().evidence() == model::Answer::EVIDENCE_RAN)
    message.mutable_answer()->set_evidence(model::Answer::EVIDENCE_PENDING);
  // One that cannot be sent is asked for again.
  if (auto sent = send_message(connection.get(), message, monotonic_ns() + kPatienceNs); !sent)
    spdlog::warn("{}: {}", peer, sent.error().to_string());
}

// The cgroup that holds those of the containers, in each hierarchy. One that still holds any cannot be
// removed.
void Keeper::remove_empty_cgroups() const {
  const std::filesystem::path parent = std::filesystem::path(host_->runc.cgroup("any")).parent_path();
  const std::filesystem::path mounts = "/sys/fs/cgroup";
  ::rmdir((mounts / parent).c_str());
  std::error_code error;
  for (const auto& hierarchy : std::filesystem::directory_iterator(mounts, error))
    if (hierarchy.is_directory(error)) ::rmdir((hierarchy.path() / parent).c_str());
}

Reply<StoredContainer> Keeper::run(const model::ContainerRecord& record) {
  return lifecycle_->run(record);
}

std::vector<StoredContainer> Keeper::list() const {
  return host_->store.list();
}

Reply<ExitStatus> Keeper::stop(const std::string& id, int64_t grace_ms) {
  return lifecycle_->stop(id, grace_ms);
}

Reply<void> Keeper::remove(const std::string& id, bool force) {
  return lifecycle_->remove(id, force);
}

Reply<CommandOutcome> Keeper::execute(const std::string& id, const std::vector<std::string>& command) {
  return lifecycle_->execute(id, command);
}

Reply<void> Keeper::logs(const std::string& id, bool follow,
                         const std::function<bool(const std::string&)>& deliver,
                         const std::function<bool()>& cancelled) {
  return read_logs(host_->store, *output_, id, follow, deliver, [&] { return ending_ || cancelled(); });
}

Reply<void> Keeper::migrate(const std::string& id, const std::string& target,
                            const model::MigrationGoals& goals, const Feed& feed,
                            const std::function<bool()>& cancelled) {
  return departures_->migrate(id, target, goals, feed, cancelled);
}

Reply<model::CheckOutcome> Keeper::check(const std::string& id) {
  return departures_->check(id);
}

Reply<std::vector<SessionView>> Keeper::migrations() const {
  return view_sessions(*host_);
}

Reply<ContainerView> Keeper::inspect(const std::string& id) const {
  return view_container(*host_, id);
}

std::string Keeper::waits_for(const StoredContainer& container) const {
  return engine::waits_for(*host_, container);
}

Reply<ResolutionView> Keeper::resolve(const std::string& id, Resolution resolution, const std::string& peer) {
  return settlement_->resolve(id, resolution, peer);
}

}  // namespace godwit::engine
