// What a worker leaves behind in the kernel when it dies in the midst of a cutover, and how it is put right
// by another process: sockets in repair mode (TCP_REPAIR outlives its tracer), sockets beside their places.
//
// Threads: any, but one call at a time for a container. Nobody is stopped or traced by these functions; while
// they work, the container's processes must be frozen: a socket that is being used by its program in between
// loses nothing, but the program may see errors. Everything is tried, whatever becomes of the rest, and what
// went wrong is returned: one socket that cannot be healed does not keep the others from it.
#pragma once

#include <sys/types.h>

#include <vector>

#include "base/result.h"
#include "runtime/process/after_commit.pb.h"
#include "runtime/process/faults.h"

namespace godwit::runtime {

enum class RepairEnd {
  kSilently,   // the connections have been here all the time: nothing is sent (TCP_REPAIR_OFF_NO_WP)
  kWithProbe,  // they have just arrived here: a window probe tells their peers
};

// Every TCP socket that these processes hold and that is in repair mode leaves it; each once, however many
// hold it. Peek offsets of unix and UDP sockets, by which their queues are read, are taken back too.
// `host_pids`: as this process numbers them; those that are gone have nothing to heal. Needs CAP_NET_ADMIN
// over the container's network namespace, and to be allowed to trace.
//
// Repair mode overwrites SO_REUSEADDR, and no kernel remembers its value. A connection gets that of the
// listener with its local port, from which an accepted one has inherited it; without one it is switched on,
// which keeps nobody from listening at that port again.
[[nodiscard]] Faults leave_repair_mode(const std::vector<pid_t>& host_pids, RepairEnd how);

// Takes over a replica whose holder has died after Replica::hold(), when the decision is known to be
// "committed": does what Replica::run() would have done, or the rest of it if it had begun. `plan`:
// Replica::after_commit() of the holder. `host_pids`: all processes of the replica, `init_pid` its first.
// They run when their cgroup is thawed; that is left to the caller, and must not have happened before.
[[nodiscard]] Faults release_held(pid_t init_pid, const std::vector<pid_t>& host_pids,
                                  const model::AfterCommit& plan);

// The same replica will never run: removes from its file system what lies aside there. Before its processes
// are killed, since its root directory is found through them.
[[nodiscard]] Faults clean_up_held(pid_t init_pid, const model::AfterCommit& plan);

}  // namespace godwit::runtime
