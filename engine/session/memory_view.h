// From a snapshot's description of memory to the view that the page source works on.
#pragma once

#include <functional>
#include <vector>

#include "base/result.h"
#include "runtime/memory/page_source.h"
#include "runtime/process/capture.h"
#include "runtime/process/snapshot.pb.h"

namespace godwit::engine {

// `shared_memory_fd`: a descriptor of shared memory by its id, borrowed.
Result<runtime::MemoryView> make_memory_view(const runtime::model::Snapshot& snapshot,
                                             const std::vector<runtime::CapturedProcess>& processes,
                                             const std::function<Result<int>(uint64_t)>& shared_memory_fd);

}  // namespace godwit::engine
