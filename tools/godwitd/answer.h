// Answer<T>: what the agent's operations return: a value, or the gRPC status that the client is to see.
#pragma once

#include <grpcpp/support/status.h>

#include <expected>
#include <string>
#include <utility>

#include "base/result.h"

namespace godwit::tools {

template <typename T>
using Answer = std::expected<T, grpc::Status>;

[[nodiscard]] inline std::unexpected<grpc::Status> answer_error(grpc::StatusCode code, const Error& error) {
  return std::unexpected(grpc::Status(code, error.to_string()));
}
[[nodiscard]] inline std::unexpected<grpc::Status> answer_error(grpc::StatusCode code, std::string operation,
                                                                std::string object, std::string why) {
  return answer_error(
      code,
      Error{
          .operation = std::move(operation), .object = std::move(object), .code = 0, .hint = std::move(why)});
}

// The host failed.
template <typename T>
[[nodiscard]] Answer<T> or_internal(Result<T> result) {
  if (!result) return answer_error(grpc::StatusCode::INTERNAL, result.error());
  if constexpr (std::is_void_v<T>)
    return {};
  else
    return *std::move(result);
}
// The request makes no sense.
[[nodiscard]] inline Answer<void> or_invalid(const Result<void>& result) {
  if (!result) return answer_error(grpc::StatusCode::INVALID_ARGUMENT, result.error());
  return {};
}

}  // namespace godwit::tools
