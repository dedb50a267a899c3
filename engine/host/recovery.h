// Putting right what a session or an agent that died has left: after a crash the container runs where the
// journal says that it belongs.
//
// Threads: all members may be called at once. Some of the work goes on in threads that nobody joins: they
// wait for another agent's answer, or for an old worker, for as long as this process lives.
#pragma once

#include <string>

#include "engine/host/arrivals.h"
#include "engine/host/lifecycle.h"

namespace godwit::engine {

class Recovery {
 public:
  Recovery(Host& host, Lifecycle& lifecycle, Arrivals& arrivals)
      : host_(host), lifecycle_(lifecycle), arrivals_(arrivals) {}

  // Of everything that the store holds, when the agent starts.
  void recover_all();
  // The source's container after a session that did not end by itself. Says where it is: "source", "target",
  // "unknown".
  std::string settle_departure(const model::ContainerRecord& record);

 private:
  void recover(const StoredContainer& container);
  void find_again(const StoredContainer& container);
  Result<void> make_run_again(const model::ContainerRecord& record);
  void finish_departure(const model::ContainerRecord& record, const std::string& target,
                        const std::string& session);

  Host& host_;
  Lifecycle& lifecycle_;
  Arrivals& arrivals_;
};

}  // namespace godwit::engine
