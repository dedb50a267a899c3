// What the engine puts before each batch of pages on the link: the round that the batch belongs to, and the
// pace at which it is to be stored. The link and the control connection are not ordered against each other;
// by the round the target knows to which layout a batch belongs, and waits until that is in place.
#pragma once

#include <cstddef>
#include <cstdint>

#include "engine/session/priority.h"

namespace godwit::engine {

struct RoundPrefix {
  uint32_t magic = kMagic;
  uint32_t round = 0;
  Pace pace = Pace::kInvalid;
  uint32_t reserved[13] = {};  // the pages behind it stay aligned to a cache line

  static constexpr uint32_t kMagic = 0x52445747;  // "GWDR"
};
static_assert(sizeof(RoundPrefix) == 64);

}  // namespace godwit::engine
