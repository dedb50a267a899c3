// Fd: sole owner of a file descriptor; closes it when it goes. Movable, not copyable, not thread-safe.
#pragma once

#include <unistd.h>

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>

#include "base/result.h"

namespace godwit {

class Fd {
 public:
  Fd() = default;
  explicit Fd(int fd) : fd_(fd) {}
  Fd(Fd&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  Fd& operator=(Fd&& other) noexcept {
    if (this != &other) reset(std::exchange(other.fd_, -1));
    return *this;
  }
  Fd(const Fd&) = delete;
  Fd& operator=(const Fd&) = delete;
  ~Fd() { reset(); }

  [[nodiscard]] int get() const { return fd_; }
  [[nodiscard]] bool valid() const { return fd_ >= 0; }
  [[nodiscard]] int release() { return std::exchange(fd_, -1); }
  void reset(int fd = -1) {
    if (fd_ >= 0) ::close(fd_);
    fd_ = fd;
  }

 private:
  int fd_ = -1;
};

// open(2) and openat(2) with O_CLOEXEC added.
[[nodiscard]] Result<Fd> open_file(const std::string& path, int flags, unsigned mode = 0);
[[nodiscard]] Result<Fd> open_file_at(int dir, const std::string& path, int flags, unsigned mode = 0);
// dup(2) with O_CLOEXEC.
[[nodiscard]] Result<Fd> duplicate(int fd);
// A whole small file (proc, sys, JSON), at most `bytes_max`; more is EFBIG.
[[nodiscard]] Result<std::string> read_file(const std::string& path, size_t bytes_max = size_t{64} << 20);
[[nodiscard]] Result<std::string> read_all(int fd, const std::string& name,
                                           size_t bytes_max = size_t{64} << 20);
// All of it, from where the file stands; `name` is for the message.
[[nodiscard]] Result<void> write_all(int fd, std::string_view text, const std::string& name);
// Writes a whole file. The second one replaces it atomically and survives a crash (fsync, rename).
[[nodiscard]] Result<void> write_file(const std::string& path, std::string_view text);
[[nodiscard]] Result<void> replace_file_durably(const std::string& path, std::string_view text,
                                                unsigned mode = 0600);

}  // namespace godwit
