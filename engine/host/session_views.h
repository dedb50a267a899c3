// What users are shown of the migrations that this host has records of (`godwit migrations`, `godwit
// inspect`), and of the resolution of one (`godwit resolve`).
//
// Nothing of it is a lock: the next moment may have changed it.
#pragma once

#include <string>
#include <vector>

#include "engine/commit/machine.h"
#include "engine/commit/record.h"
#include "engine/host/reply.h"
#include "engine/host/store.h"

namespace godwit::engine {

struct Host;

struct SessionView {
  SessionRecord record;  // empty if it cannot be read
  bool worker_lives = false;
  std::string meaning;     // of its state, for people
  std::string unreadable;  // why it cannot be read; names the file
};

struct ContainerView {
  std::optional<StoredContainer> container;  // nothing: it is not on this host, but sessions of it are known
  Copy copy = Copy::kInvalid;                // what the kernel shows of it
  std::vector<SessionView> sessions;         // newest first; records that cannot be read may be of it too
};

// What a resolution did, or, while its user has not confirmed it by the other host's name, would do.
struct ResolutionView {
  bool done = false;
  std::string peer;   // the other host
  std::string known;  // what this side knows
  std::string plan;   // what is done
  std::string risk;   // what it costs if the other host comes back
};

// Newest first, records that cannot be read before all others. Of one container only, if `id` is not empty.
[[nodiscard]] Reply<std::vector<SessionView>> view_sessions(const Host& host, const std::string& id = {});
// kNotFound: neither the container nor a session of it is known here.
[[nodiscard]] Reply<ContainerView> view_container(const Host& host, const std::string& id);
// The other host, whose answer the container hangs on; empty: it hangs on none.
[[nodiscard]] std::string waits_for(const Host& host, const StoredContainer& container);
// `done` is false in it.
[[nodiscard]] ResolutionView view_resolution(const SessionRecord& record, Copy copy, const Move& move);

}  // namespace godwit::engine
