// Where a process's cgroup lies in the file system, for v1, v2 and the hybrid of both (cgroups(7)).
#pragma once

#include <sys/types.h>

#include <optional>
#include <string>
#include <vector>

#include "base/result.h"

namespace godwit::runtime {

// Directory of `pid`'s cgroup in the v1 hierarchy of `controller` ("freezer", "cpu", "memory", ...), or in
// the v2 hierarchy if `controller` is empty. ENOENT if this machine has no such hierarchy, or the process is
// in its root, which is nobody's own.
[[nodiscard]] Result<std::string> cgroup_directory(pid_t pid, const std::string& controller);

// Whether `directory`, as returned by cgroup_directory() for the same controller, holds the calling process.
[[nodiscard]] Result<bool> cgroup_holds_caller(const std::string& directory, const std::string& controller);

// The number in a cgroup file (or another of the kernel) that is either one number or "KEY NUMBER" lines;
// "max" and below zero are `unlimited`. `key` empty: the first number.
[[nodiscard]] Result<uint64_t> cgroup_number(const std::string& path, const std::string& key = {},
                                             uint64_t unlimited = UINT64_MAX);

// The processes in the cgroup `path` and below it, in all hierarchies together; none where there is no such
// cgroup.
[[nodiscard]] Result<std::vector<pid_t>> processes_in_cgroup(const std::string& path);
// Whether the cgroup `path` is frozen, or being frozen: by v2, or by v1's freezer. One that is not there is
// not.
[[nodiscard]] Result<bool> is_frozen(const std::string& path);
// Of these, the one that is the first of the outermost pid namespace (pid_namespaces(7)): a container's init.
[[nodiscard]] std::optional<pid_t> find_init(const std::vector<pid_t>& processes);

}  // namespace godwit::runtime
