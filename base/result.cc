#include "base/result.h"

#include <cstring>

namespace godwit {

std::string Error::to_string() const {
  std::string text = operation;
  if (!object.empty()) text += (text.empty() ? "" : " ") + object;
  if (code != 0) {
    const char* const description = ::strerrordesc_np(code);
    text += ": " + (description != nullptr ? std::string(description) : "error " + std::to_string(code));
  }
  if (!hint.empty()) text += code != 0 ? " (" + hint + ")" : ": " + hint;
  return text;
}

std::unexpected<Error> fail(std::string operation, std::string object, int code, std::string hint) {
  return std::unexpected(Error{
      .operation = std::move(operation), .object = std::move(object), .code = code, .hint = std::move(hint)});
}

std::unexpected<Error> refuse(std::string operation, std::string object, std::string why) {
  return fail(std::move(operation), std::move(object), 0, std::move(why));
}

}  // namespace godwit
