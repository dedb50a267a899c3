// The containers that one agent keeps, in memory and below ROOT/containers.
//
//   ROOT/containers/ID/record.json    its ContainerRecord: this agent is its keeper
//   ROOT/containers/ID/status.json    what has become of it (stage, session, exit, error)
//   ROOT/containers/ID/arriving.json  a ContainerRecord: it is being built here and belongs to the source
//
// A change of stage is the lock of a container: whoever moved it to a stage that is under way (starting,
// migrating, stopping, removing) is the only one to work on it until he settles it.
//
// Threads: all members may be called at once.
#pragma once

#include <sys/types.h>

#include <condition_variable>
#include <cstdint>
#include <map>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "engine/host/reply.h"
#include "engine/protocol/worker.pb.h"

namespace godwit::engine {

enum class Stage {
  kInvalid = 0,
  kStarting,
  kRunning,
  kMigrating,
  kArriving,
  kStopping,
  kStopped,
  kFailed,
  kRemoving
};
[[nodiscard]] const char* stage_name(Stage stage);  // "running"
[[nodiscard]] Stage stage_from_name(const std::string& name);

struct ExitStatus {
  bool known = false;  // false: it ended where nobody could see how
  int status = 0;      // 128 + signal if killed
  int signal = 0;
  int64_t at_unix_s = 0;
};

struct StoredContainer {
  model::ContainerRecord record;
  Stage stage = Stage::kInvalid;
  pid_t pid = 0;  // of its first process while it lives
  std::optional<ExitStatus> exit;
  std::string error;      // one line, of kFailed
  std::string session;    // of kMigrating and kArriving: in which (engine/commit); empty: only looked at
  unsigned commands = 0;  // exec's under way
};

class Store {
 public:
  explicit Store(std::string root) : root_(std::move(root)) {}

  // Reads what an earlier agent of this root left. Stages are as they were left; recovery settles them.
  Result<void> load();

  // Takes the id, the address and the place of the anti-affinity group; if one of them is taken, nothing is
  // made. The directory exists afterwards.
  Reply<void> add(const model::ContainerRecord& record, Stage stage, const std::string& session = {});
  Reply<StoredContainer> find(const std::string& id) const;
  std::vector<StoredContainer> list() const;

  // Moves the container to the stage `to`, if its present one is among `from`. `operation` is for the
  // refusal: "stop". With a session it is durable when this returns, or refused.
  Reply<StoredContainer> begin(const std::string& id, const std::string& operation,
                               std::initializer_list<Stage> from, Stage to, const std::string& session = {});
  // What the sessions' records say of a container whose status says nothing of them.
  void take_in_hand(const std::string& id, Stage stage, const std::string& session);
  // A command inside a running container; migrations wait for none and are refused while there is one.
  Reply<void> begin_command(const std::string& id);
  void end_command(const std::string& id);

  // The container runs: with `record` it has arrived, or was made. If it has ended meanwhile, it is stopped.
  Result<void> settle_running(const model::ContainerRecord& record, pid_t pid);
  Result<void> settle(const std::string& id, Stage stage, const std::string& error = {});
  // Its first process ended. A container in a stage that is under way keeps that stage.
  void note_exit(const std::string& id, const ExitStatus& exit);
  // Waits for note_exit; nothing when the time is over or the container is gone.
  std::optional<ExitStatus> await_exit(const std::string& id, int64_t timeout_ms) const;
  // Forgets it and deletes its directory.
  Result<void> erase(const std::string& id);

 private:
  Result<void> load_one(const std::string& id);
  [[nodiscard]] Reply<void> check_place(const model::ContainerRecord& record) const;
  Result<void> write_new(const StoredContainer& container) const;
  Result<void> write_status(const StoredContainer& container) const;
  Reply<StoredContainer*> locate(const std::string& id, const std::string& operation);

  const std::string root_;
  mutable std::mutex mutex_;
  mutable std::condition_variable changed_;
  std::map<std::string, StoredContainer> containers_;
};

}  // namespace godwit::engine
