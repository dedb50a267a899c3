// One container through runc(8), the only place that runs it.
//
// Everything about namespaces, mounts, cgroups and devices is runc's business. This adapter writes the bundle
// that runc sees (the user's config.json with hostname, cgroup path and limits filled in), runs the command
// and turns its failures into one-line errors that carry runc's own last words.
//
// Threads: calls for different containers may run at once; calls for one container must not.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/fd.h"
#include "base/result.h"

namespace godwit::runtime {

struct ContainerLimits {
  uint64_t memory_bytes = 0;  // 0: none
  uint32_t cpu_millis = 0;    // thousandths of a processor; 0: none
};

struct ContainerSpec {
  std::string id;      // [A-Za-z0-9][A-Za-z0-9_.-]{0,63}
  std::string bundle;  // the user's bundle; its rootfs is used in place
  std::string hostname;
  ContainerLimits limits;
  std::string network_namespace;  // path of a prepared network namespace
  std::string log_path;           // stdout and stderr are appended here
};

enum class ContainerState { kInvalid = 0, kAbsent, kCreated, kRunning, kPaused, kStopped };

struct Placeholder {
  pid_t pid = 0;        // in our pid namespace
  Fd channel;           // our end of the socket it inherited
  int channel_fd = -1;  // its number there
};

class Runc {
 public:
  // `root` is runc's state directory; `host` names the cgroup parent (godwit-HOST/ID), so that several agents
  // can share a machine.
  Runc(std::string root, std::string bundles, std::string host);

  // Creates and starts the container's own process. On failure nothing is left behind; a container that has
  // this id already is EEXIST and is not touched. The container's processes become children of the nearest
  // subreaper (prctl(2)), which is meant to be the agent; see command.h on how that one reaps.
  Result<pid_t> run(const ContainerSpec& spec);
  // Creates the container with the placeholder as its (privileged, single-threaded) process, for a replica to
  // grow from; then puts the container's own config.json back, so that `runc exec` and `runc state` see an
  // ordinary container. When it returns, the placeholder has been executed and waits in futex(2).
  Result<Placeholder> run_placeholder(const ContainerSpec& spec);

  // A container whose cgroup is frozen by v2 counts as running.
  Result<ContainerState> state(const std::string& id);
  // ESRCH if it has no process (any more).
  Result<pid_t> init_pid(const std::string& id);
  Result<void> kill(const std::string& id, int signal);
  // Removes it, with all its processes if `force`; with `force`, one that is absent is no error.
  Result<void> remove(const std::string& id, bool force);
  // Sets both limits, 0 lifting one; also undoes whatever CpuThrottle left behind. A memory limit below what
  // the container uses is refused by the kernel or reclaimed down to, and cpu stays as it was if memory
  // fails.
  Result<void> update(const std::string& id, const ContainerLimits& limits);
  struct ExecOutcome {
    int exit_status = 0;
    std::string output;  // stdout and stderr as they came, at most 16 MiB
  };
  // Runs a command in the container with the container's own credentials; at most 10 minutes.
  Result<ExecOutcome> exec(const std::string& id, const std::vector<std::string>& command);

  // "godwit-HOST/ID", relative to each cgroup hierarchy.
  [[nodiscard]] std::string cgroup(const std::string& id) const;

 private:
  struct Status;

  Result<void> check(const std::string& id) const;
  Result<void> check_absent(const ContainerSpec& spec) const;
  // `runc run` with `config`; what it half made is gone again if it fails.
  Result<pid_t> launch(const ContainerSpec& spec, const std::string& config,
                       const std::vector<int>& descriptors);
  Result<Status> status(const std::string& id) const;
  // Removes whatever there is of it, after a failure that is being reported already.
  void discard(const std::string& id);

  std::string root_;
  std::string bundles_;
  std::string host_;
};

}  // namespace godwit::runtime
