// The goals of a migration: what counts where its user states none, and what can be asked for at all.
#pragma once

#include "base/result.h"
#include "engine/protocol/events.pb.h"

namespace godwit::engine {

// Zero and empty fields take their defaults; an error names the goal that makes no sense.
Result<model::MigrationGoals> complete_goals(model::MigrationGoals goals);

}  // namespace godwit::engine
