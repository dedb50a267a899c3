// The mark of a worker at work on a container: ROOT/containers/ID/worker, "PID START-TIME\n".
//
// A worker that outlives its agent still undoes or finishes its session. The next agent must leave the
// container alone until that worker has ended; the start time tells it from a process that got the same pid
// later.
#pragma once

#include <sys/types.h>

#include <string>

#include "base/result.h"

namespace godwit::engine {

Result<void> write_worker_mark(const std::string& directory, pid_t worker);
// No mark is no error.
void remove_worker_mark(const std::string& directory);
// Returns when the worker that the mark names has ended; at once if there is none.
void await_marked_worker(const std::string& directory);

}  // namespace godwit::engine
