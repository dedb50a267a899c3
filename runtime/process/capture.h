// Capture: the source side. Reads the processes of a running container into a Snapshot.
//
// Live snapshots read /proc from outside and disturb nothing, apart from one brief stop (tens of
// microseconds) for each process that is new since the last, to make its scratch mapping and its
// userfaultfd. freeze() stops everything; snapshot_frozen() is exact.
//
// Threads: all calls on one thread (the tracer). Failure: any error leaves the container thawed or can be
// followed by thaw(). The destructor thaws.
#pragma once

#include <sys/types.h>

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/fd.h"
#include "base/result.h"
#include "runtime/process/puppet.h"
#include "runtime/process/snapshot.pb.h"

namespace godwit::runtime {

// Something that cannot be moved. Printed as "pid 7 fd 4 (io_uring): why; what to do".
struct Refusal {
  pid_t pid = 0;       // in the container
  std::string object;  // "fd 4", "mapping 7f..-7f.."
  std::string reason;
};

struct CaptureOptions {
  pid_t init_pid = 0;    // of the container's init, in the agent's pid namespace
  std::string log_path;  // the agent's log of the container: its descriptors become ContainerLog
  // Stops, and lets go, every task of the container's cgroup; see runtime/container/freezer.h.
  std::function<Result<void>()> freeze_cgroup;
  std::function<Result<void>()> thaw_cgroup;
  // All pids (agent's namespace) of the container's cgroup.
  std::function<Result<std::vector<pid_t>>()> list_cgroup;
};

// A process of the container as both namespaces see it.
struct CapturedProcess {
  pid_t host_pid = 0;
  pid_t container_pid = 0;
};

class Capture {
 public:
  static Result<std::unique_ptr<Capture>> open(CaptureOptions options);
  virtual ~Capture() = default;

  // Everything that cannot be moved, each named; empty means it can. The container runs on, untouched.
  virtual Result<std::vector<Refusal>> preflight() = 0;

  // A snapshot of the running container: processes, threads, mappings, descriptors as /proc shows them.
  virtual Result<model::Snapshot> snapshot_live() = 0;

  // Calls `visit` with a stopped puppet of each process not visited before (its scratch is made); the process
  // is stopped for the time of the call only. Used to inject userfaultfd(2). In the frozen state visits the
  // newcomers among the frozen processes.
  virtual Result<void> visit_new_processes(
      const std::function<Result<void>(const CapturedProcess&, Puppet&)>& visit) = 0;

  // Cgroup freeze, seize and interrupt all threads, wait for all, thaw the cgroup: ptrace holds them.
  virtual Result<void> freeze() = 0;
  // Exact. The part that a target needs before pages can be stored (processes, mappings, shared memory) can
  // be taken first and alone, so that page transfer overlaps with the rest.
  virtual Result<model::Snapshot> snapshot_frozen_memory() = 0;
  // The complete snapshot (memory included).
  virtual Result<model::Snapshot> snapshot_frozen() = 0;
  // Undoes every change (repair mode, scratch mappings, registers) and lets all threads run.
  virtual Result<void> thaw() = 0;

  // The processes run elsewhere now, and these here are to be killed: from here on they die with this tracer,
  // the cgroup is thawed, and they give their private memory back bit by bit. (A process that ends with all
  // of its memory keeps a processor from everybody else on the host for tens of milliseconds per GiB.) There
  // is no way back. They are still stopped afterwards; shared memory is left alone.
  virtual Result<void> dismantle() = 0;

  [[nodiscard]] virtual std::vector<CapturedProcess> processes() const = 0;
  // A descriptor of the shared memory `id` of the last snapshot, readable and writable; owned by the Capture.
  [[nodiscard]] virtual Result<int> shared_memory_fd(uint64_t id) = 0;
};

}  // namespace godwit::runtime
