// The exit statuses of `godwit`; documented in --help too, and not to be renumbered.
#pragma once

namespace godwit::tools {

enum ExitCode : int {
  kDone = 0,
  kFailed = 1,       // the container runs on, where it was unless the message says otherwise
  kUsage = 2,        // called wrongly: nothing was done
  kRefused = 3,      // the preflight found what cannot be moved: nothing was touched
  kUnreachable = 4,  // no agent answers at --api
  kUnknown = 5,      // the container's fate is not known here: see ps of both agents
};

}  // namespace godwit::tools
