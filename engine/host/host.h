// Host: what every part of the keeper works with: this host's settings, its containers' records, and the
// tools that act on containers and networks.
//
// Threads: all members may be used at once; for one container the store's stages say who may act (store.h).
#pragma once

#include <string>

#include "engine/commit/machine.h"
#include "engine/commit/store.h"
#include "engine/host/keeper.h"
#include "engine/host/store.h"
#include "engine/paths.h"
#include "runtime/container/container.h"
#include "runtime/network/network.h"

namespace godwit::engine {

struct Host {
  explicit Host(KeeperOptions options);

  const KeeperOptions options;
  runtime::Runc runc;
  runtime::Network network;
  Store store;
  SessionStore sessions;  // records of migrations

  // What a worker has to know.
  [[nodiscard]] model::AgentSettings settings() const;
  [[nodiscard]] runtime::NetworkSpec network_spec(const model::ContainerRecord& record) const;
  // The first process of a container that this host keeps. ESRCH: it has ended. Any other error: nobody could
  // say whether it lives, and it must not be taken for dead. May take seconds where runc fails.
  [[nodiscard]] Result<pid_t> find_process(const std::string& id);
  // What the kernel shows of it.
  [[nodiscard]] Copy observe(const std::string& id) const;
  [[nodiscard]] ContainerPaths paths(const std::string& id) const {
    return container_paths(options.root, id);
  }
};

// Logs the failure of what was tried for its own sake.
void log_failure(const std::string& id, const Result<void>& result);

}  // namespace godwit::engine
