// Migrations to this host: one worker for each accepted connection.
//
// Threads: all members may be called at once.
#pragma once

#include <string>

#include "base/fd.h"
#include "engine/host/lifecycle.h"
#include "engine/host/workers.h"

namespace godwit::engine {

class Arrivals {
 public:
  Arrivals(Host& host, Workers& workers, Lifecycle& lifecycle)
      : host_(host), workers_(workers), lifecycle_(lifecycle) {}

  // Serves one connection to its end.
  void receive(Fd connection, const std::string& peer);
  // The worker died on the way, `why`: the container is kept or removed, as its arrival mark says.
  void settle(const model::ContainerRecord& record, const std::string& why);

 private:
  struct Arrival;
  void follow(WorkerProcess& worker, Arrival& arrival);
  void take_over(const model::ContainerRecord& record);

  Host& host_;
  Workers& workers_;
  Lifecycle& lifecycle_;
};

}  // namespace godwit::engine
