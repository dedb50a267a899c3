// Migrations away from this host, as the agent sees them: a worker that reports, a client that listens.
//
// Threads: all members may be called at once.
#pragma once

#include <functional>
#include <string>

#include "engine/host/settlement.h"
#include "engine/host/workers.h"

namespace godwit::engine {

class Departures {
 public:
  Departures(Host& host, Workers& workers, Settlement& settlement)
      : host_(host), workers_(workers), settlement_(settlement) {}

  // keeper.h says what these do.
  Reply<void> migrate(const std::string& id, const std::string& target, const model::MigrationGoals& goals,
                      const Keeper::Feed& feed, const std::function<bool()>& cancelled);
  Reply<model::CheckOutcome> check(const std::string& id);

 private:
  struct Departure;
  void follow(WorkerProcess& worker, const std::string& id, const model::MigrationGoals& goals,
              Departure& departure, const Keeper::Feed& feed, const std::function<bool()>& cancelled);
  model::MigrationResult conclude(const model::ContainerRecord& record, Departure& departure,
                                  const std::function<bool()>& cancelled);

  Host& host_;
  Workers& workers_;
  Settlement& settlement_;
};

}  // namespace godwit::engine
