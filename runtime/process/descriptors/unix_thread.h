// A thread that has a root directory, a umask and credentials of its own (CLONE_FS, setresuid(2) of the one
// thread), for what the kernel takes from the caller: where a path leads, and who a socket's peer is.
#pragma once

#include <sys/types.h>

#include <functional>

#include "base/result.h"

namespace godwit::runtime {

// Runs `work` on such a thread and waits for it.
[[nodiscard]] Result<void> on_own_thread(const std::function<Result<void>()>& work);

// To be called on it. Capabilities stay (SECBIT_NO_SETUID_FIXUP).
[[nodiscard]] Result<void> act_as(uid_t uid, gid_t gid);
// Below `root` from now on, as chroot(2) has it.
[[nodiscard]] Result<void> enter_root(int root);

}  // namespace godwit::runtime
