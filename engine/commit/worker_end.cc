// The end of a worker whose agent may be another one than started it: what they share is the record.
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cctype>

#include "base/directory.h"
#include "engine/commit/store.h"

namespace godwit::engine {
namespace {

// A process that was killed ends at once, unless the kernel is at work for it.
constexpr int kEndMs = 10'000;

// fork(2) copies descriptors, so a program that an agent has just begun to start may hold one for a moment:
// of such a child the command is the agent's.
bool is_worker(const std::string& process) {
  const auto command = read_file(process + "/cmdline");
  if (!command) return false;
  const size_t first = command->find('\0');
  return first != std::string::npos &&
         command->compare(first + 1, std::string::npos, std::string("worker\0", 7)) == 0;
}

bool has_open(const std::string& process, const struct stat& file) {
  const std::string path = process + "/fd";
  const Directory directory(::opendir(path.c_str()));
  if (directory == nullptr) return false;
  while (const dirent* entry = ::readdir(directory.get())) {
    struct stat found {};
    if (entry->d_name[0] != '.' && ::fstatat(::dirfd(directory.get()), entry->d_name, &found, 0) == 0 &&
        found.st_dev == file.st_dev && found.st_ino == file.st_ino)
      return true;
  }
  return false;
}

Result<void> kill_and_await(const std::string& name, const std::string& process, const struct stat& file) {
  const Fd pidfd(static_cast<int>(::syscall(SYS_pidfd_open, std::stoi(name), 0)));
  if (!pidfd.valid()) return errno == ESRCH ? Result<void>() : fail("open a pidfd of", "worker " + name);
  // The number may have passed to another process before it was held.
  if (!is_worker(process) || !has_open(process, file)) return {};
  if (::syscall(SYS_pidfd_send_signal, pidfd.get(), SIGKILL, nullptr, 0) != 0 && errno != ESRCH)
    return fail("end", "worker " + name);
  pollfd ended{.fd = pidfd.get(), .events = POLLIN, .revents = 0};
  int told = 0;
  while ((told = ::poll(&ended, 1, kEndMs)) < 0 && errno == EINTR) {
  }
  return told == 1 ? Result<void>() : fail("end", "worker " + name, ETIMEDOUT);
}

}  // namespace

Result<void> SessionStore::end_worker(const std::string& session, Side side) const {
  const std::string path = path_of(session, side);
  struct stat file {};
  if (::stat(path.c_str(), &file) != 0) return fail("look at", path);
  const Directory processes(::opendir("/proc"));
  if (processes == nullptr) return fail("list", "/proc");
  while (const dirent* entry = ::readdir(processes.get())) {
    const std::string name = entry->d_name;
    if (!std::ranges::all_of(name, [](unsigned char letter) { return std::isdigit(letter) != 0; })) continue;
    const std::string process = "/proc/" + name;
    if (is_worker(process) && has_open(process, file)) GODWIT_TRY(kill_and_await(name, process, file));
  }
  return {};
}

}  // namespace godwit::engine
