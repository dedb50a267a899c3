// Migrations to this host: one worker for each greeting that is admitted.
//
// Threads: all members may be called at once.
#pragma once

#include <string>

#include "base/fd.h"
#include "engine/host/admission.h"
#include "engine/host/lifecycle.h"
#include "engine/host/patience.h"
#include "engine/host/settlement.h"
#include "engine/host/workers.h"

namespace godwit::engine {

class Arrivals {
 public:
  Arrivals(Host& host, Workers& workers, Lifecycle& lifecycle, Settlement& settlement);

  // Serves one greeting to the end of its migration. `peer`: who said it, for messages.
  void receive(Fd connection, const std::string& peer, const model::Hello& hello);

 private:
  std::string supervise(Fd connection, const model::Hello& hello);
  std::string follow(WorkerProcess& worker, Patience patience);
  void take_over(const model::ContainerRecord& record);

  Host& host_;
  Workers& workers_;
  Lifecycle& lifecycle_;
  Settlement& settlement_;
  Admission admission_;
};

}  // namespace godwit::engine
