// The mark that a target leaves when it lets a container go: containers/ID/arrival, which holds the session.
// An Inquiry is answered from it.
#pragma once

#include <string>

#include "base/result.h"
#include "engine/paths.h"

namespace godwit::engine {

Result<void> write_arrival(const ContainerPaths& paths, const std::string& session);
Result<std::string> read_arrival(const ContainerPaths& paths);

}  // namespace godwit::engine
