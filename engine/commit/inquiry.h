// Inquiry: how one side of a migration learns from the other side's agent what that one's record says, on a
// connection of its own (protocol/session.proto).
#pragma once

#include "engine/commit/machine.h"
#include "engine/commit/store.h"
#include "engine/protocol/session.pb.h"

namespace godwit::engine {

// Between two questions about one session.
inline constexpr unsigned kAskAgainUs = 500'000;

// What the other side says of the session that `record` is of. Tries its addresses in turn, at most two
// seconds each; kSilence if nobody answers. `final`, if given, becomes whether it is over at the other side.
Evidence ask_other_side(const SessionRecord& record, bool* final = nullptr);

// What this agent answers; never fails: what cannot be read now is pending. Notes that the asker is over it.
[[nodiscard]] model::Answer answer_inquiry(const model::Inquiry& inquiry, const SessionStore& sessions);

}  // namespace godwit::engine
