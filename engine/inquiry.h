// Inquiry: how one side of a migration learns from the other's agent what became of it after their connection
// broke (protocol/session.proto).
#pragma once

#include <cstdint>
#include <string>

#include "base/result.h"
#include "engine/protocol/peer.h"
#include "engine/protocol/worker.pb.h"

namespace godwit::engine {

// Asks the agent at `address` until it gives an answer that settles the matter; returns the monotonic time of
// that answer, us. Asks forever, twice a second: as long as the answer is unknown the container must stay
// stopped. An answer that settles it otherwise than `hoped` is an error.
Result<int64_t> ask_until(const std::string& address, const std::string& session,
                          const std::string& container, model::Answer::Decision hoped);

// Answers from what this agent's root directory holds: journals and container records.
Result<void> answer_inquiry(Peer& peer, const model::Inquiry& inquiry, const model::AgentSettings& agent);

}  // namespace godwit::engine
