// Migrations away from this host, as the agent sees them: a worker that reports, a client that listens.
//
// Threads: all members may be called at once.
#pragma once

#include <functional>
#include <string>

#include "engine/host/recovery.h"
#include "engine/host/workers.h"

namespace godwit::engine {

class Departures {
 public:
  Departures(Host& host, Workers& workers, Recovery& recovery)
      : host_(host), workers_(workers), recovery_(recovery) {}

  // keeper.h says what these do.
  Reply<void> migrate(const std::string& id, const std::string& target, const model::MigrationGoals& goals,
                      const Keeper::Feed& feed, const std::function<bool()>& cancelled);
  Reply<model::CheckOutcome> check(const std::string& id);

 private:
  struct Departure;
  void follow(WorkerProcess& worker, const std::string& id, Departure& departure, const Keeper::Feed& feed,
              const std::function<bool()>& cancelled);
  model::MigrationResult conclude(const model::ContainerRecord& record, Departure& departure);

  Host& host_;
  Workers& workers_;
  Recovery& recovery_;
};

}  // namespace godwit::engine
