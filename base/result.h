// Result<T>: a value, or an Error that says what was tried, on what, why it failed and what to do.
//
// Every function of this project that can fail returns a Result; exceptions are not used. An Error is
// plain data: copyable, thread-agnostic, and independent of errno once made.
#pragma once

#include <cerrno>
#include <expected>
#include <string>
#include <utility>

namespace godwit {

struct Error {
  std::string operation;  // what was tried, as a verb phrase: "open", "connect to the target"
  std::string object;     // on what: a path, "pid 12 fd 4", an address
  int code = 0;           // errno(3) value, 0 where the failure is not a system call's
  std::string hint;       // why, if errno does not say it, and what the user can do; may be empty

  // One line: "open /proc/1/mem: Permission denied (run as root)".
  [[nodiscard]] std::string to_string() const;
};

template <typename T>
using Result = std::expected<T, Error>;

// An error from errno, or from `code`.
[[nodiscard]] std::unexpected<Error> fail(std::string operation, std::string object, int code = errno,
                                          std::string hint = {});
// An error that no system call reported.
[[nodiscard]] std::unexpected<Error> refuse(std::string operation, std::string object, std::string why);

}  // namespace godwit

#define GODWIT_CONCAT_INNER(a, b) a##b
#define GODWIT_CONCAT(a, b) GODWIT_CONCAT_INNER(a, b)

// GODWIT_TRY(do_it());   returns the error of a failed Result from the enclosing function.
#define GODWIT_TRY(...)                                               \
  if (auto godwit_result = (__VA_ARGS__); !godwit_result.has_value()) \
  return std::unexpected(std::move(godwit_result).error())

// GODWIT_ASSIGN(auto fd, open_it());   the same, and binds the value of a successful one.
#define GODWIT_ASSIGN(declaration, ...) \
  GODWIT_ASSIGN_INNER(GODWIT_CONCAT(godwit_result_, __LINE__), declaration, __VA_ARGS__)
#define GODWIT_ASSIGN_INNER(name, declaration, ...)                       \
  auto name = (__VA_ARGS__);                                              \
  if (!name.has_value()) return std::unexpected(std::move(name).error()); \
  declaration = *std::move(name)
