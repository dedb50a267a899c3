// The first message of a connection, from whoever it may be: a migration's Hello or another agent's Inquiry.
//
// Reading it costs no more than its size justifies. A message with lists of lists, such as a snapshot, can be
// a hundred times larger in memory than on the wire; so nothing is parsed but the two kinds that may come
// first, which have no lists, and what they hold beside their fields is not kept.
#pragma once

#include <cstdint>
#include <string_view>
#include <variant>

#include "base/result.h"
#include "engine/protocol/session.pb.h"

namespace godwit::engine {

inline constexpr uint32_t kFirstMessageBytesMax = 64U << 10;

using FirstMessage = std::variant<model::Hello, model::Inquiry>;

// `bytes`: of a ControlMessage, without its length.
Result<FirstMessage> parse_first_message(std::string_view bytes);

}  // namespace godwit::engine
