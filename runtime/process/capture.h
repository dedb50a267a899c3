// Capture: the source side. Reads the processes of a running container into a Snapshot.
//
// Live snapshots read /proc from outside and disturb nothing, apart from one brief stop (tens of
// microseconds) for each process that is new since the last, to make its scratch mapping and its
// userfaultfd. freeze() stops everything; snapshot_frozen() is exact.
//
// Threads: all calls on one thread (the tracer). Failure: any error leaves the container thawed or can be
// followed by thaw(). The destructor thaws and, unless dismantle() was called, takes out of the processes
// what the capture has put into them, so that a migration that failed leaves no trace. EAGAIN means that the
// container was in a state that passes by itself (a thread in vfork(2), a process that ends): let it go on
// for a moment and try again.
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
  // is stopped for the time of the call only. Used to inject userfaultfd(2). A running process whose leader
  // does not come out of the kernel now (it waits in vfork(2), or for a disk), or for which `visit` returns
  // EAGAIN, is left for a later call; `visit` runs on another thread then, while this one waits. In the
  // frozen state visits the newcomers among the frozen processes, and leaves none.
  virtual Result<void> visit_new_processes(
      const std::function<Result<void>(const CapturedProcess&, Puppet&)>& visit) = 0;

  // Cgroup freeze, seize and interrupt all threads, thaw the cgroup, wait for all: ptrace holds them. EAGAIN,
  // with all of them running again, if a thread does not stop within some tens of ms; the error names it and
  // what it waits in. One that stops later than that is let go then by thaw(), which fails if it still does
  // not: end the tracer thread soon then, before the late one stops for good.
  virtual Result<void> freeze() = 0;
  // Exact. The part that a target needs before pages can be stored (processes, mappings, shared memory) can
  // be taken first and alone, so that page transfer overlaps with the rest.
  virtual Result<model::Snapshot> snapshot_frozen_memory() = 0;
  // The complete snapshot (memory included).
  virtual Result<model::Snapshot> snapshot_frozen() = 0;
  // Undoes every change but the scratch mappings (repair mode, registers) and lets all threads run. A system
  // call that nothing but the stop has interrupted goes on, too (capture/registers.h).
  virtual Result<void> thaw() = 0;

  // The processes run elsewhere now, and these here are to be killed: from here on they die with this tracer,
  // the cgroup is thawed, and they give their private memory back bit by bit. (A process that ends with all
  // of its memory keeps a processor from everybody else on the host for tens of milliseconds per GiB.) There
  // is no way back. They are still stopped afterwards; shared memory is left alone.
  virtual Result<void> dismantle() = 0;

  [[nodiscard]] virtual std::vector<CapturedProcess> processes() const = 0;
  // A descriptor of the shared memory `id` of the last snapshot, for reading; owned by the Capture.
  [[nodiscard]] virtual Result<int> shared_memory_fd(uint64_t id) = 0;
};

}  // namespace godwit::runtime
