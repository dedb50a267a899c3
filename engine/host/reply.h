// Reply<T>: what the keeper's operations return: a value, or why the asker does not get one. The kind tells
// programs whose fault it is, the error tells people.
#pragma once

#include <expected>
#include <string>
#include <utility>

#include "base/result.h"

namespace godwit::engine {

enum class DenialKind {
  kInvalid = 0,
  kInvalidArgument,     // the request makes no sense
  kNotFound,            // this host has no such container
  kAlreadyExists,       // the id or the address is taken
  kFailedPrecondition,  // the container is not in a state that allows it
  kInternal,            // the host failed
};

struct Denial {
  DenialKind kind = DenialKind::kInvalid;
  Error error;
  [[nodiscard]] std::string to_string() const { return error.to_string(); }
};

template <typename T>
using Reply = std::expected<T, Denial>;

[[nodiscard]] inline std::unexpected<Denial> deny(DenialKind kind, Error error) {
  return std::unexpected(Denial{.kind = kind, .error = std::move(error)});
}
[[nodiscard]] inline std::unexpected<Denial> deny(DenialKind kind, std::string operation, std::string object,
                                                  std::string why) {
  return deny(kind, refuse(std::move(operation), std::move(object), std::move(why)).error());
}

// A result whose failure is of this kind.
template <typename T>
[[nodiscard]] Reply<T> or_deny(DenialKind kind, Result<T> result) {
  if (!result) return deny(kind, std::move(result).error());
  if constexpr (std::is_void_v<T>)
    return {};
  else
    return *std::move(result);
}
template <typename T>
[[nodiscard]] Reply<T> or_internal(Result<T> result) {
  return or_deny(DenialKind::kInternal, std::move(result));
}
template <typename T>
[[nodiscard]] Reply<T> or_invalid(Result<T> result) {
  return or_deny(DenialKind::kInvalidArgument, std::move(result));
}

}  // namespace godwit::engine
