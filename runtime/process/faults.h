// What went wrong after the point of no return: to be told, never a reason to stop.
#pragma once

#include <utility>
#include <vector>

#include "base/result.h"

namespace godwit::runtime {

using Faults = std::vector<Error>;

inline void note_fault(Faults& faults, Result<void> outcome) {
  if (!outcome.has_value()) faults.push_back(std::move(outcome).error());
}

inline void note_faults(Faults& faults, Faults more) {
  for (Error& one : more) faults.push_back(std::move(one));
}

}  // namespace godwit::runtime
