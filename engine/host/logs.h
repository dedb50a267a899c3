// What a container wrote to stdout and stderr.
#pragma once

#include <functional>
#include <string>

#include "engine/host/output_log.h"
#include "engine/host/store.h"

namespace godwit::engine {

// With `follow` until the container has ended, or `cancelled`. `deliver` takes pieces and says whether the
// reader is still there.
Reply<void> read_logs(const Store& store, OutputLogs& output, const std::string& id, bool follow,
                      const std::function<bool(const std::string&)>& deliver,
                      const std::function<bool()>& cancelled);

}  // namespace godwit::engine
