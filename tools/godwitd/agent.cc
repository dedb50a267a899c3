#include "tools/godwitd/agent.h"

#include <fcntl.h>
#include <spdlog/spdlog.h>
#include <sys/file.h>
#include <unistd.h>

#include <ctime>
#include <filesystem>

namespace godwit::tools {

namespace {
// A migration that is cancelled has to thaw its container, or to finish its commit.
constexpr auto kSessionsEndIn = std::chrono::seconds(10);
}  // namespace

Agent::Agent(AgentOptions options)
    : options_(std::move(options)),
      runc_(engine::runc_root(options_.root), engine::bundles_root(options_.root), options_.name),
      network_(engine::network_root(options_.root), options_.cni_plugins),
      store_(options_.root) {}

Result<void> Agent::start() {
  std::error_code error;
  std::filesystem::create_directories(options_.root, error);
  if (error) return fail("make the directory", options_.root, error.value());
  GODWIT_ASSIGN(root_lock_, open_file(options_.root + "/lock", O_RDWR | O_CREAT, 0600));
  if (::flock(root_lock_.get(), LOCK_EX | LOCK_NB) != 0)
    return fail("lock", options_.root, errno, "another godwitd uses this root");
  for (const std::string& directory : {engine::runc_root(options_.root), engine::bundles_root(options_.root),
                                       engine::network_root(options_.root)}) {
    std::filesystem::create_directories(directory, error);
    if (error) return fail("make the directory", directory, error.value());
  }
  output_ = engine::OutputLogs::start(options_.root);
  GODWIT_ASSIGN(reaper_, Reaper::start([this](const std::string& id, const ExitStatus& exit) {
                  if (exit.known)
                    spdlog::info("{}: ended with status {}", id, exit.status);
                  else
                    spdlog::info("{}: ended, nobody saw how", id);
                  store_.note_exit(id, exit);
                }));
  GODWIT_TRY(store_.load());
  recover_sessions();
  GODWIT_ASSIGN(listener_,
                ControlListener::start(options_.listen, [this](Fd connection, const std::string& peer) {
                  receive(std::move(connection), peer);
                }));
  return {};
}

void Agent::shut_down() {
  ending_ = true;
  if (listener_) listener_->stop_accepting();
  cancel_sessions();
  std::unique_lock lock(sessions_mutex_);
  if (!sessions_changed_.wait_for(lock, kSessionsEndIn, [this] { return sessions_.empty(); }))
    spdlog::warn("{} sessions go on without this agent; the next one settles them", sessions_.size());
  remove_empty_cgroups();
}

// The cgroup that holds those of the containers, in each hierarchy. One that still holds any cannot be
// removed.
void Agent::remove_empty_cgroups() const {
  const std::filesystem::path parent = std::filesystem::path(runc_.cgroup("any")).parent_path();
  const std::filesystem::path mounts = "/sys/fs/cgroup";
  ::rmdir((mounts / parent).c_str());
  std::error_code error;
  for (const auto& hierarchy : std::filesystem::directory_iterator(mounts, error))
    if (hierarchy.is_directory(error)) ::rmdir((hierarchy.path() / parent).c_str());
}

void Agent::cancel_sessions() {
  const std::lock_guard lock(sessions_mutex_);
  for (Session* session : sessions_) session->worker().cancel();
}

engine::model::AgentSettings Agent::settings() const {
  engine::model::AgentSettings settings;
  settings.set_name(options_.name);
  settings.set_root(options_.root);
  settings.set_bridge(options_.bridge);
  settings.set_cni_plugins(options_.cni_plugins);
  settings.set_listen_address(options_.listen);
  settings.set_fault(options_.fault);
  settings.set_rdma(options_.rdma);
  return settings;
}

runtime::NetworkSpec Agent::network_spec(const engine::model::ContainerRecord& record) const {
  return {.container_id = record.id(),
          .address = record.address(),
          .mac = record.mac(),
          .bridge = options_.bridge,
          .gateway = record.gateway(),
          .mtu = 0};
}

Result<void> Agent::keep(const engine::model::ContainerRecord& record, pid_t pid) {
  GODWIT_TRY(store_.settle_running(record, pid));
  auto watched = reaper_->watch(record.id(), pid);
  if (watched || watched.error().code != ESRCH) return watched;
  note_unseen_end(record.id());
  return {};
}

void Agent::note_unseen_end(const std::string& id) {
  store_.note_exit(id, {.known = false, .status = 0, .signal = 0, .at_unix_s = ::time(nullptr)});
}

Result<std::unique_ptr<Agent::Session>> Agent::Session::start(Agent& agent,
                                                              const engine::model::WorkerOrder& order,
                                                              Fd connection) {
  if (agent.ending_) return refuse("start", "a worker", "the agent is ending");
  GODWIT_ASSIGN(auto worker, WorkerProcess::start(order, std::move(connection)));
  std::unique_ptr<Session> session(new Session(agent, std::move(worker)));
  const std::lock_guard lock(agent.sessions_mutex_);
  agent.sessions_.insert(session.get());
  if (agent.ending_) session->worker().cancel();
  return session;
}

Agent::Session::~Session() {
  const std::lock_guard lock(agent_.sessions_mutex_);
  agent_.sessions_.erase(this);
  agent_.sessions_changed_.notify_all();
}

}  // namespace godwit::tools
