// What only the process itself can attach to its descriptors: epoll watches (they keep the number), fcntl(2)
// locks (they belong to the process), signal owners (process ids of the container).
#pragma once

#include "base/result.h"
#include "runtime/process/puppet.h"
#include "runtime/process/snapshot.pb.h"

namespace godwit::runtime {

// Adds the calls of `process`, whose table is in place, to the batch.
Result<void> add_attachments(const model::Snapshot& frozen, const model::Process& process, CallBatch& batch);

}  // namespace godwit::runtime
