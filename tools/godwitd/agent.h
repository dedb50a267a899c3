// The agent of one host: keeper of its containers, and the one who starts and supervises migrations.
//
// Threads: all members may be called at once, from start() on until shut_down().
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "engine/host/output_log.h"
#include "engine/worker.h"
#include "runtime/container/container.h"
#include "runtime/network/network.h"
#include "tools/api/godwit.pb.h"
#include "tools/godwitd/answer.h"
#include "tools/godwitd/control_listener.h"
#include "tools/godwitd/reaper.h"
#include "tools/godwitd/store.h"
#include "tools/godwitd/worker_process.h"

namespace godwit::tools {

struct AgentOptions {
  std::string name;
  std::string root;    // absolute
  std::string listen;  // ADDR:PORT
  std::string bridge;
  std::string cni_plugins;
  std::string rdma;   // engine/protocol/worker.proto
  std::string fault;  // tests only: engine/fault.h
};

class Agent {
 public:
  explicit Agent(AgentOptions options);

  // Takes the root directory for itself, finds the containers again, settles what an earlier agent left half
  // done, and listens for migrations.
  Result<void> start();
  // Cancels the migrations that are under way and waits for them; containers stay as they are.
  void shut_down();
  [[nodiscard]] const AgentOptions& options() const { return options_; }

  // lifecycle.cc
  Answer<StoredContainer> run(const api::v1::RunRequest& request);
  [[nodiscard]] std::vector<StoredContainer> list() const { return store_.list(); }
  Answer<ExitStatus> stop(const std::string& id, int64_t grace_ms);
  Answer<void> remove(const std::string& id, bool force);
  Answer<runtime::Runc::ExecOutcome> execute(const std::string& id, const std::vector<std::string>& command);

  // logs.cc: `deliver` takes pieces of output and says whether the reader is still there.
  Answer<void> logs(const std::string& id, bool follow,
                    const std::function<bool(const std::string&)>& deliver,
                    const std::function<bool()>& cancelled);

  // departure.cc
  using Feed = std::function<void(const engine::model::MigrationEvent&)>;
  Answer<void> migrate(const api::v1::MigrateRequest& request, const Feed& feed,
                       const std::function<bool()>& cancelled);
  Answer<engine::model::CheckOutcome> check(const std::string& id);

 private:
  // One worker at work, to be cancelled at the end; it leaves the list when it goes.
  class Session;

  [[nodiscard]] engine::model::AgentSettings settings() const;
  [[nodiscard]] runtime::NetworkSpec network_spec(const engine::model::ContainerRecord& record) const;
  // The container runs in `pid`: from now on its end will be noticed.
  Result<void> keep(const engine::model::ContainerRecord& record, pid_t pid);
  // It has ended, and nobody saw how.
  void note_unseen_end(const std::string& id);
  void cancel_sessions();
  void remove_empty_cgroups() const;

  // lifecycle.cc
  Answer<void> check_request(const engine::model::ContainerRecord& record) const;
  Result<pid_t> create(engine::model::ContainerRecord& record);
  Answer<ExitStatus> end(const std::string& id, int64_t grace_ms);
  Result<void> delete_all_of(const engine::model::ContainerRecord& record);

  // departure.cc
  struct Departure;
  void follow_departure(Session& session, const std::string& id, Departure& departure, const Feed& feed,
                        const std::function<bool()>& cancelled);
  engine::model::MigrationResult conclude_departure(const engine::model::ContainerRecord& record,
                                                    Departure& departure);

  // arrival.cc
  void receive(Fd connection, const std::string& peer);
  struct Arrival;
  void follow_arrival(Session& session, Arrival& arrival);
  void take_over(const engine::model::ContainerRecord& record);
  void settle_arrival(const engine::model::ContainerRecord& record, const std::string& why);

  // recovery.cc
  void recover_sessions();
  void recover(const StoredContainer& container);
  void find_again(const StoredContainer& container);
  // The source's container after a session that did not end by itself. Says where it is: "source", "unknown".
  std::string settle_departure(const engine::model::ContainerRecord& record);
  Result<void> make_run_again(const engine::model::ContainerRecord& record);
  void finish_departure(const engine::model::ContainerRecord& record, const std::string& target,
                        const std::string& session);

  const AgentOptions options_;
  runtime::Runc runc_;
  runtime::Network network_;
  Store store_;
  Fd root_lock_;
  std::unique_ptr<Reaper> reaper_;
  std::unique_ptr<engine::OutputLogs> output_;
  std::unique_ptr<ControlListener> listener_;

  std::mutex sessions_mutex_;
  std::condition_variable sessions_changed_;
  std::set<Session*> sessions_;
  std::atomic<bool> ending_ = false;
};

class Agent::Session {
 public:
  // Starts a worker with `order`. Refused while the agent ends.
  static Result<std::unique_ptr<Session>> start(Agent& agent, const engine::model::WorkerOrder& order,
                                                Fd connection);
  ~Session();
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;
  [[nodiscard]] WorkerProcess& worker() { return *worker_; }

 private:
  Session(Agent& agent, std::unique_ptr<WorkerProcess> worker) : agent_(agent), worker_(std::move(worker)) {}
  Agent& agent_;
  std::unique_ptr<WorkerProcess> worker_;
};

}  // namespace godwit::tools
