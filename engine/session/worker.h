// The entry point of a session's worker process. The agent starts itself again (/proc/self/exe) with the
// hidden argument `worker` and these descriptors.
#pragma once

#include "base/fd.h"

namespace godwit::engine {

inline constexpr int kWorkerAgentFd = 3;       // a socket pair: worker.proto
inline constexpr int kWorkerConnectionFd = 4;  // at a target, the accepted control connection

// Reads one WorkerOrder from `agent`, carries it out, reports; returns the exit status (0: carried out or
// cleanly refused). `connection` is the accepted control connection for a TargetOrder, else invalid.
int run_worker(Fd agent, Fd connection);

}  // namespace godwit::engine
