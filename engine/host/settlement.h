// Settlement: carries migrations to their end whose worker ended before them.
//
// A session is in this agent's hands while the store says that a container migrates or arrives in it. If its
// worker is gone, this gathers what is known (the record, what the kernel shows, what the other side's agent
// answers), asks the commit machine (engine/commit/machine.h) what is to be done, and does it; again and
// again, until the session is over.
//
// Threads: all members may be called at once. Each session goes on in a thread of its own that nobody joins:
// it waits for another agent's answer for as long as this process lives. The next agent begins it again.
#pragma once

#include <condition_variable>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>

#include "engine/host/lifecycle.h"
#include "engine/host/session_views.h"

namespace godwit::engine {

class Settlement {
 public:
  Settlement(Host& host, Lifecycle& lifecycle) : host_(host), lifecycle_(lifecycle) {}

  // The container migrates or arrives, and its worker has ended, or is about to. Once for each session.
  void begin(const StoredContainer& container);
  // The same, and waits for the end, until `cancelled`, or for half a minute. Where the container is then:
  // "source", "target", "unknown".
  std::string settle(const StoredContainer& container, const std::function<bool()>& cancelled);
  // For the other host that never comes back. `peer` has to be its name, as the record has it: else nothing
  // is done, and what is returned says what would be. Ends a worker that waits for that host, and returns
  // when the session is over; kFailedPrecondition if there is nothing to resolve, or if the other host
  // answers after all; kInternal if it is not over within half a minute, which does not end it.
  // settlement_resolve.cc.
  Reply<ResolutionView> resolve(const std::string& id, Resolution resolution, const std::string& peer);
  // Forgets what is long over, and hears from the other sides whether it is, and whether a copy here has to
  // be fenced. Now and then; takes seconds if a host does not answer.
  void tidy(const std::function<bool()>& cancelled);

 private:
  // What one thread works on. Shared with who waits for it.
  struct Case {
    model::ContainerRecord container;
    std::string session;
    Side side = Side::kInvalid;
    Evidence heard = Evidence::kSilence;
    bool silenced = false;
    bool worker_seen = false;
    std::string trouble;  // that was told of
    // The order has been carried out, and this is to be written yet.
    std::optional<SessionState> left;
    // Under the settlement's mutex.
    Resolution resolution = Resolution::kInvalid;
    bool over = false;
    std::string where = "unknown";
  };
  [[nodiscard]] static Side side_of(const StoredContainer& container);
  [[nodiscard]] static std::string key_of(const StoredContainer& container);
  [[nodiscard]] bool is_in_hand(const Case& matter) const;
  void carry_on(const std::shared_ptr<Case>& matter, const std::string& key);
  Result<bool> step(Case& matter);
  Result<bool> end_without_record(Case& matter);
  Result<void> conclude(const SessionRecord& record, Evidence heard, bool over);
  [[nodiscard]] bool runs_elsewhere_as_more(const SessionRecord& record, Evidence heard) const;
  Result<bool> ask(Case& matter, const SessionRecord& record);
  Result<bool> finish(Case& matter, SessionFile& file);
  Result<void> carry_out(Case& matter, const Move& move, const SessionRecord& record);
  Reply<SessionState> await_resolution(const StoredContainer& container, Resolution resolution);

  // settlement_orders.cc
  Result<void> go_on_here(const model::ContainerRecord& record, bool heal);
  Result<void> note_end(const model::ContainerRecord& record, bool of_target);
  Result<void> note_lost(const std::string& id);
  Result<void> let_run(const model::ContainerRecord& record);
  Result<void> take_over(const model::ContainerRecord& record);
  Result<void> destroy(const model::ContainerRecord& record);
  Result<void> fence(const std::string& id);
  Result<void> keep_silent(const std::string& id);

  Host& host_;
  Lifecycle& lifecycle_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::map<std::string, std::shared_ptr<Case>> cases_;  // by container and session; under mutex_
};

}  // namespace godwit::engine
