#include "engine/host/worker_mark.h"

#include <fmt/format.h>
#include <poll.h>
#include <spdlog/spdlog.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <optional>
#include <sstream>

#include "base/fd.h"

namespace godwit::engine {
namespace {

std::string mark_path(const std::string& directory) {
  return directory + "/worker";
}

// proc(5) stat, field 22, in clock ticks since boot; nothing if there is no such process, or only its zombie.
std::optional<uint64_t> start_time(pid_t pid) {
  const auto text = read_file(fmt::format("/proc/{}/stat", pid), 4096);
  if (!text || text->rfind(')') == std::string::npos) return std::nullopt;
  std::istringstream fields(text->substr(text->rfind(')') + 1));
  std::string field;
  fields >> field;
  if (field == "Z" || field == "X") return std::nullopt;
  constexpr int kFieldsBetween = 18;
  for (int skipped = 0; skipped < kFieldsBetween; ++skipped) fields >> field;
  uint64_t ticks = 0;
  if (!(fields >> ticks)) return std::nullopt;
  return ticks;
}

}  // namespace

Result<void> write_worker_mark(const std::string& directory, pid_t worker) {
  return replace_file_durably(mark_path(directory),
                              fmt::format("{} {}\n", worker, start_time(worker).value_or(0)));
}

void remove_worker_mark(const std::string& directory) {
  if (::unlink(mark_path(directory).c_str()) != 0 && errno != ENOENT)
    spdlog::warn("{}", fail("remove", mark_path(directory)).error().to_string());
}

void await_marked_worker(const std::string& directory) {
  const auto text = read_file(mark_path(directory), 256);
  if (!text) return;
  std::istringstream words(*text);
  pid_t pid = 0;
  uint64_t started = 0;
  if (!(words >> pid >> started) || pid <= 0) return;
  const Fd pidfd(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0)));
  if (!pidfd.valid() || start_time(pid) != started) return;
  spdlog::info("{}: its worker {} still works; waiting for it", directory, pid);
  pollfd entry{.fd = pidfd.get(), .events = POLLIN, .revents = 0};
  while (::poll(&entry, 1, -1) < 0 && errno == EINTR) {
  }
}

}  // namespace godwit::engine
