// Replica: the target side. Real processes, stopped, that are brought to a Snapshot by the difference alone.
//
// A replica grows from a placeholder: a privileged, single-threaded process, PID 1 of a container that runc
// made from the same bundle. reconcile() may be called any number of times with newer snapshots; the last
// one, frozen, completes it.
//
// Threads: all calls on one thread (the tracer). Until hold() the replica dies with this process
// (PTRACE_O_EXITKILL), so that it can never run beside the source. The page writer may write into the
// processes from other threads between reconcile_memory() and run().
#pragma once

#include <sys/types.h>

#include <memory>
#include <string>
#include <vector>

#include "base/fd.h"
#include "base/result.h"
#include "runtime/process/after_commit.pb.h"
#include "runtime/process/faults.h"
#include "runtime/process/snapshot.pb.h"

namespace godwit::runtime {

struct ReplicaOptions {
  pid_t placeholder_pid = 0;  // in the agent's pid namespace
  Fd channel;                 // the agent's end of the socket the placeholder inherited (SOCK_SEQPACKET)
  int placeholder_channel_fd = -1;  // its number in the placeholder
  std::string log_path;             // the target agent's log of this container
};

class Replica {
 public:
  static Result<std::unique_ptr<Replica>> adopt(ReplicaOptions options);
  virtual ~Replica() = default;

  // Enters the container's time namespace offsets. Once, before the first reconcile. Offsets against this
  // host's clocks.
  virtual Result<void> enter_time_namespace(int64_t monotonic_offset_ns, int64_t boottime_offset_ns) = 0;

  // Creates and removes processes and mappings so that pages of `snapshot` can be stored. Live or frozen.
  virtual Result<void> reconcile_memory(const model::Snapshot& snapshot) = 0;
  // Everything else: threads, descriptors, sockets, signals, timers, credentials. With a live snapshot it
  // prepares what it can (threads, files that stay open); with a frozen one it completes the replica.
  virtual Result<void> reconcile(const model::Snapshot& snapshot) = 0;

  // pid in the container -> pid in the agent's namespace; nothing if there is none yet.
  [[nodiscard]] virtual Result<pid_t> host_pid(uint32_t container_pid) const = 0;
  [[nodiscard]] virtual Result<int> shared_memory_fd(uint64_t id) const = 0;
  // madvise(MADV_DONTNEED) in a process: pages the source no longer has.
  struct Range {
    uint64_t start = 0;
    uint64_t end = 0;
  };
  virtual Result<void> discard(uint32_t container_pid, const std::vector<Range>& ranges) = 0;

  // From now on the replica survives this process (the caller has frozen its cgroup): called before READY is
  // said. Whatever this host could refuse it has refused by then, here or in reconcile().
  virtual Result<void> hold() = 0;
  // What run() does to sockets, for whoever takes over the held processes if this one dies before: see
  // release_held() in heal.h. Valid from the frozen reconcile() on.
  [[nodiscard]] virtual const model::AfterCommit& after_commit() const = 0;
  // Sockets leave repair mode and take their places, all threads are released and run once the cgroup is
  // thawed. After the decision only, so there is no failure: whatever happens to one of them, the others are
  // released. What went wrong is returned to be told.
  virtual Faults run() = 0;
  // Kills all processes of the replica.
  virtual Result<void> destroy() = 0;
};

}  // namespace godwit::runtime
