// The descriptor tables of a container: read at the source, rebuilt at the target. One file per kind of
// object (files.cc, pipes.cc, unix_sockets.cc, tcp.cc, epoll.cc, ...) behind these two classes.
//
// Errors that carry EAGAIN are of this moment only: a connection that waits to be accepted, a socket that is
// connecting, or whose peer has closed and it has not. Undo, thaw, and try again a few milliseconds later.
// Every other error is for good.
//
// Ids: SharedMemory.id of a memfd is its inode number. FileDescription.owner_type is F_GETOWN_EX's plus one.
//
// Threads: the tracer thread.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "base/fd.h"
#include "base/result.h"
#include "runtime/process/after_commit.pb.h"
#include "runtime/process/capture.h"
#include "runtime/process/faults.h"
#include "runtime/process/puppet.h"
#include "runtime/process/snapshot.pb.h"

namespace godwit::runtime {

// A process of the source with one of its stopped threads (the leader), for injection.
struct FrozenProcess {
  CapturedProcess process;
  Puppet* leader = nullptr;
};

class DescriptorCapture {
 public:
  static Result<std::unique_ptr<DescriptorCapture>> open(pid_t init_pid, const std::string& log_path);
  // Undoes. After the commit the source's processes must be dead before: a connection that has left repair
  // mode is closed towards the client when its last holder ends.
  virtual ~DescriptorCapture() = default;
  // Names every descriptor that cannot be moved. From /proc and fdinfo; disturbs nothing.
  virtual Result<void> preflight(const std::vector<CapturedProcess>& processes,
                                 std::vector<Refusal>& refusals) = 0;
  // Looks at the tables of all processes, for this call and the next of capture_live() or capture_frozen().
  // Adds to Snapshot.shared_memory every memfd that is open anywhere, whether it is mapped or not.
  virtual Result<void> capture_memory(const std::vector<CapturedProcess>& processes, bool frozen,
                                      model::Snapshot& snapshot) = 0;
  // Fills Process.descriptors and Snapshot.descriptions of a snapshot whose processes are listed, as
  // capture_memory() has found them. Live: without sockets' queues.
  virtual Result<void> capture_live(const std::vector<CapturedProcess>& processes,
                                    model::Snapshot& snapshot) = 0;
  // Exact, of frozen processes; established TCP sockets are put into repair mode (the network must be
  // blocked).
  virtual Result<void> capture_frozen(const std::vector<FrozenProcess>& processes,
                                      model::Snapshot& snapshot) = 0;
  // Takes every socket out of repair mode again: the container goes on here.
  virtual Result<void> undo() = 0;
  // A descriptor, for reading, of a memfd that the last capture_memory() has found.
  virtual Result<int> shared_memory_fd(uint64_t id) = 0;
};

// Fills in what a snapshot says of a shared-memory object that `fd` leads to. `name`: of a memfd.
Result<void> read_shared_memory(int fd, uint64_t id, bool memfd, const std::string& name,
                                model::SharedMemory& memory);

// A process of the replica with its leader's puppet.
struct ReplicaProcess {
  uint32_t container_pid = 0;
  pid_t host_pid = 0;
  Puppet* leader = nullptr;
};

class DescriptorRebuild {
 public:
  // `channel`: our end of the socket that every replica process inherited under the number `channel_fd`,
  // through which descriptors are handed in (SCM_RIGHTS, injected recvmsg(2)). Sockets are made by this
  // process on a thread that has joined the container's network namespace.
  static Result<std::unique_ptr<DescriptorRebuild>> open(pid_t init_pid, Fd channel, int channel_fd,
                                                         std::string log_path);
  virtual ~DescriptorRebuild() = default;
  // Makes ahead what will very likely be needed: opens files, makes memfds and pipes, binds listeners.
  virtual Result<void> prepare(const model::Snapshot& live) = 0;
  // Brings every process's table to the frozen snapshot, exactly; the channel is closed in all of them.
  // Memfds get their seals. Whatever this host can refuse, it refuses here: only after_commit() is left.
  virtual Result<void> complete(const model::Snapshot& frozen,
                                const std::vector<ReplicaProcess>& processes) = 0;
  // What finish() does, for somebody else to do if this process dies before. Valid after complete().
  [[nodiscard]] virtual const model::AfterCommit& after_commit() const = 0;
  // After the decision, before a thread runs: unix sockets that are bound to a path take the place of the
  // source's, established TCP sockets leave repair mode. All of it is tried.
  virtual Faults finish() = 0;
  // Removes what lies beside the sockets' places: after finish(), when the threads run, or if they never
  // will.
  virtual Faults clean_up() = 0;
  // A descriptor of shared memory `id` of the snapshot: memfds, and MAP_SHARED|MAP_ANONYMOUS objects that the
  // replica's mappings are made from. Made on first use.
  virtual Result<int> shared_memory_fd(const model::Snapshot& snapshot, uint64_t id) = 0;
  // Hands a descriptor into the stopped process; returns its number there (close-on-exec set).
  virtual Result<int> hand_in(const ReplicaProcess& process, int fd) = 0;
};

}  // namespace godwit::runtime
