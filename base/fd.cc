#include "base/fd.h"

#include <fcntl.h>

#include <cstdio>

namespace godwit {

Result<void> write_all(int fd, std::string_view text, const std::string& name) {
  while (!text.empty()) {
    const ssize_t written = ::write(fd, text.data(), text.size());
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) return fail("write", name);
    text.remove_prefix(static_cast<size_t>(written));
  }
  return {};
}

Result<Fd> open_file(const std::string& path, int flags, unsigned mode) {
  return open_file_at(AT_FDCWD, path, flags, mode);
}

Result<Fd> open_file_at(int dir, const std::string& path, int flags, unsigned mode) {
  Fd fd(::openat(dir, path.c_str(), flags | O_CLOEXEC, mode));
  if (!fd.valid()) return fail("open", path);
  return fd;
}

Result<Fd> duplicate(int fd) {
  Fd copy(::fcntl(fd, F_DUPFD_CLOEXEC, 0));
  if (!copy.valid()) return fail("duplicate", "fd " + std::to_string(fd));
  return copy;
}

Result<std::string> read_all(int fd, const std::string& name, size_t bytes_max) {
  std::string text;
  size_t used = 0;
  for (;;) {
    text.resize(used + 16384);
    const ssize_t got = ::read(fd, text.data() + used, text.size() - used);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return fail("read", name);
    used += static_cast<size_t>(got);
    if (used > bytes_max) return fail("read", name, EFBIG);
    if (got == 0) break;
  }
  text.resize(used);
  return text;
}

Result<std::string> read_file(const std::string& path, size_t bytes_max) {
  GODWIT_ASSIGN(const Fd fd, open_file(path, O_RDONLY));
  return read_all(fd.get(), path, bytes_max);
}

Result<void> write_file(const std::string& path, std::string_view text) {
  GODWIT_ASSIGN(const Fd fd, open_file(path, O_WRONLY | O_CREAT | O_TRUNC, 0644));
  return write_all(fd.get(), text, path);
}

Result<void> replace_file_durably(const std::string& path, std::string_view text, unsigned mode) {
  const std::string fresh = path + ".new";
  {
    GODWIT_ASSIGN(const Fd fd, open_file(fresh, O_WRONLY | O_CREAT | O_TRUNC, mode));
    GODWIT_TRY(write_all(fd.get(), text, fresh));
    if (::fsync(fd.get()) != 0) return fail("fsync", fresh);
  }
  if (::rename(fresh.c_str(), path.c_str()) != 0) return fail("rename", fresh);
  const size_t slash = path.rfind('/');
  GODWIT_ASSIGN(const Fd directory, open_file(slash == std::string::npos ? "." : path.substr(0, slash + 1),
                                              O_RDONLY | O_DIRECTORY));
  if (::fsync(directory.get()) != 0) return fail("fsync the directory of", path);
  return {};
}

}  // namespace godwit
