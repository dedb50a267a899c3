// `godwit check`: the preflight alone. The container runs on, untouched.
#pragma once

#include <vector>

#include "base/result.h"
#include "engine/protocol/worker.pb.h"
#include "runtime/network/network.h"
#include "runtime/process/capture.h"

namespace godwit::engine {

// What stands against moving the container, and still does a moment later: a child that its parent is just
// about to wait for is no reason.
Result<std::vector<runtime::Refusal>> lasting_refusals(runtime::Capture& capture,
                                                       const runtime::Attachment& attachment);

model::CheckOutcome check_container(const model::CheckOrder& order);

}  // namespace godwit::engine
