// The keeper of one host's containers: runs them, and starts and supervises their migrations. What an agent
// is, apart from its API.
//
//   Keeper
//     Host        settings, records (Store), runc, networks
//     Workers     the worker processes at work
//     Lifecycle   run, stop, remove, execute; notices ends (Reaper)
//     Settlement  carries migrations to their end whose worker has died
//     Arrivals    migrations to this host (Admission)
//     Recovery    finds the containers of the agent before it again
//     Departures  migrations away from it
//     OutputLogs  bounds what containers write
//     ControlListener  the door for other agents
//
// Threads: all members may be called at once, from start() on until shut_down().
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <stop_token>
#include <string>
#include <thread>
#include <vector>

#include "base/fd.h"
#include "engine/host/reply.h"
#include "engine/host/session_views.h"
#include "engine/host/store.h"

namespace godwit::engine {

namespace model {
class Inquiry;
}
class Arrivals;
class ControlListener;
class Departures;
class Lifecycle;
class OutputLogs;
class Recovery;
class Settlement;
class Workers;
struct Host;

struct KeeperOptions {
  std::string name;
  std::string root;                     // absolute
  std::string listen;                   // ADDR:PORT
  std::vector<std::string> advertised;  // ADDR:PORT at which other agents reach it; the best first
  std::string bridge;
  std::string cni_plugins;
  std::string rdma;   // engine/protocol/worker.proto
  std::string fault;  // tests only: engine/session/fault.h
};

// What a command inside a container did.
struct CommandOutcome {
  int exit_status = 0;
  std::string output;  // stdout and stderr as they came
};

class Keeper {
 public:
  explicit Keeper(KeeperOptions options);
  ~Keeper();
  Keeper(const Keeper&) = delete;
  Keeper& operator=(const Keeper&) = delete;

  // Takes the root directory for itself, finds the containers again, settles what an earlier agent left half
  // done, and listens for migrations.
  Result<void> start();
  // Cancels the migrations that are under way and waits for them; containers stay as they are.
  void shut_down();
  [[nodiscard]] const KeeperOptions& options() const;

  // An empty hostname is the id. The MAC address and the time are filled in.
  Reply<StoredContainer> run(const model::ContainerRecord& record);
  [[nodiscard]] std::vector<StoredContainer> list() const;
  // `grace_ms` between SIGTERM and SIGKILL; 0: 10 s.
  Reply<ExitStatus> stop(const std::string& id, int64_t grace_ms);
  Reply<void> remove(const std::string& id, bool force);
  Reply<CommandOutcome> execute(const std::string& id, const std::vector<std::string>& command);

  // `deliver` takes pieces of output and says whether the reader is still there.
  Reply<void> logs(const std::string& id, bool follow, const std::function<bool(const std::string&)>& deliver,
                   const std::function<bool()>& cancelled);

  // `target`: ADDR:PORT. Zero and empty goals take their defaults. The last event has the result; an error
  // means that the migration was never begun.
  using Feed = std::function<void(const model::MigrationEvent&)>;
  Reply<void> migrate(const std::string& id, const std::string& target, const model::MigrationGoals& goals,
                      const Feed& feed, const std::function<bool()>& cancelled);
  Reply<model::CheckOutcome> check(const std::string& id);

  // What this host has records of (session_views.h).
  [[nodiscard]] Reply<std::vector<SessionView>> migrations() const;
  [[nodiscard]] Reply<ContainerView> inspect(const std::string& id) const;
  [[nodiscard]] std::string waits_for(const StoredContainer& container) const;
  // For a migration whose other host never comes back (Settlement::resolve).
  Reply<ResolutionView> resolve(const std::string& id, Resolution resolution, const std::string& peer);

 private:
  void answer(Fd connection, const std::string& peer, const model::Inquiry& inquiry) const;
  void remove_empty_cgroups() const;
  void tidy_now_and_then(const std::stop_token& ending) const;

  std::atomic<bool> ending_ = false;
  Fd root_lock_;
  std::unique_ptr<Host> host_;
  std::unique_ptr<Workers> workers_;
  std::unique_ptr<Lifecycle> lifecycle_;
  std::unique_ptr<Settlement> settlement_;
  std::unique_ptr<Arrivals> arrivals_;
  std::unique_ptr<Recovery> recovery_;
  std::unique_ptr<Departures> departures_;
  std::unique_ptr<OutputLogs> output_;
  std::unique_ptr<ControlListener> listener_;
  std::jthread tidying_;  // declared last: ends first
};

}  // namespace godwit::engine
