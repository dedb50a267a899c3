// What an agent does when it starts: finds the containers of the one before it again.
//
// Threads: one, before anybody else uses the keeper.
#pragma once

#include <optional>
#include <vector>

#include "engine/host/lifecycle.h"
#include "engine/host/settlement.h"

namespace godwit::engine {

class Recovery {
 public:
  Recovery(Host& host, Lifecycle& lifecycle, Settlement& settlement)
      : host_(host), lifecycle_(lifecycle), settlement_(settlement) {}

  // Everything that the store holds.
  void recover_all();

 private:
  static std::optional<SessionRecord> open_session_of(const StoredContainer& container,
                                                      const std::vector<SessionRecord>& records);
  void recover(const StoredContainer& container);
  void find_again(const StoredContainer& container);

  Host& host_;
  Lifecycle& lifecycle_;
  Settlement& settlement_;
};

}  // namespace godwit::engine
