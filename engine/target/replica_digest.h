// ReplicaDigest: the target's side of --verify. Reads the replica back while the rounds go on, so that in the
// frozen round only what came last is left to read.
//
// Threads: one at a time.
#pragma once

#include <cstdint>
#include <map>
#include <vector>

#include "base/result.h"
#include "runtime/memory/digest.h"
#include "runtime/memory/page_sink.h"
#include "runtime/process/replica.h"

namespace godwit::engine {

class ReplicaDigest {
 public:
  // `sink` is where all pages are stored; it must outlive this, and nothing was stored yet.
  explicit ReplicaDigest(runtime::PageSink& sink) : sink_(sink) { sink_.keep_list(); }

  // After the pages of a round are stored: follows processes that are new, and reads what is.
  Result<void> update(const runtime::Replica& replica, const runtime::model::Snapshot& snapshot);

  // Of the replica as it is; nothing may change its memory meanwhile. `view` is frozen.
  Result<std::vector<runtime::SpaceDigest>> finish(const runtime::MemoryView& view);

 private:
  runtime::PageSink& sink_;
  runtime::MemoryDigest digest_;
  std::map<uint32_t, pid_t> followed_;  // host pids by pids in the container
};

// The replica's memory, as `snapshot` describes it.
Result<runtime::MemoryView> view_of_replica(const runtime::Replica& replica,
                                            const runtime::model::Snapshot& snapshot);

}  // namespace godwit::engine
