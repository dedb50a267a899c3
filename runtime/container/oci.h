// The OCI bundle: checking a user's config.json and deriving the ones that runc sees (runtime-spec 1.0,
// config.md and config-linux.md).
//
// A container that moves shares nothing with its host: each gets pid, mount, ipc, uts, cgroup and network
// namespaces of its own, whether or not the user's config.json names them; one that asks for somebody else's,
// for a terminal or for a user namespace is refused with a hint.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/result.h"
#include "runtime/container/container.h"

namespace godwit::runtime {

// The period over which a limit of CPU time counts.
inline constexpr uint64_t kCpuPeriodUs = 100'000;

// The config.json text of the container's own process, made from the user's bundle.
[[nodiscard]] Result<std::string> container_config(const ContainerSpec& spec,
                                                   const std::string& cgroups_path);

// What a process can be given at most: an agent that lacks a capability cannot hand it on, and runc refuses
// to start what asks for it.
struct Privileges {
  uint64_t capabilities = 0;    // bit N: capability N of capabilities(7)
  uint64_t open_files_max = 0;  // RLIMIT_NOFILE
};
// Those of the calling process.
[[nodiscard]] Result<Privileges> own_privileges();

// The same container with the placeholder at `image_path` as its process: root, all capabilities there are to
// give, many descriptors. Seccomp profile and no_new_privs stay the container's own, since every process of
// the container has inherited them and neither can be taken back.
[[nodiscard]] Result<std::string> placeholder_config(const std::string& container_config,
                                                     const std::string& image_path,
                                                     const Privileges& privileges);

// runc's state.json as it would be, had `container_config` been what runc started: `runc exec` takes from it
// what config.json leaves open.
[[nodiscard]] Result<std::string> state_with_own_process(const std::string& state,
                                                         const std::string& container_config);

}  // namespace godwit::runtime
