#include "engine/host/reaper.h"

#include <fmt/format.h>
#include <spdlog/spdlog.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include <algorithm>
#include <cstdlib>
#include <ctime>
#include <filesystem>
#include <optional>
#include <sstream>
#include <vector>

#include "base/clock.h"

namespace godwit::engine {
namespace {

constexpr int kOrphanRoundMs = 1000;
constexpr int kTracedRoundMs = 100;
// Our own children (runc, CNI plugins, workers) are waited for by whoever started them, at once. A zombie
// that nobody has wanted for this long is an orphan that was left to us.
constexpr int64_t kOrphanAgeUs = 5'000'000;

// PIDFD_GET_INFO (linux/pidfd.h), which Debian 12's headers lack.
struct PidfdInfo {
  uint64_t mask;
  uint64_t cgroup_id;
  uint32_t pid, tgid, ppid, ruid, rgid, euid, egid, suid, sgid, fsuid, fsgid;
  int32_t exit_code;
};
static_assert(sizeof(PidfdInfo) == 64);
constexpr unsigned long kPidfdGetInfo = _IOWR(0xFF, 11, PidfdInfo);
constexpr uint64_t kPidfdInfoExit = 8;

ExitStatus from_wait_status(int status) {
  const int signal = WIFSIGNALED(status) ? WTERMSIG(status) : 0;
  return {.known = true,
          .status = signal != 0 ? 128 + signal : WEXITSTATUS(status),
          .signal = signal,
          .at_unix_s = ::time(nullptr)};
}

// The fields of /proc/PID/stat behind the name, which may itself hold spaces and parentheses: state is the
// first, exit_code the 50th (proc(5): 3 and 52).
std::vector<std::string> stat_fields(pid_t pid) {
  const auto text = read_file(fmt::format("/proc/{}/stat", pid), 4096);
  if (!text) return {};
  const size_t behind_name = text->rfind(')');
  if (behind_name == std::string::npos) return {};
  std::istringstream stream(text->substr(behind_name + 1));
  std::vector<std::string> fields;
  for (std::string field; stream >> field;) fields.push_back(field);
  return fields;
}

bool is_zombie(pid_t pid) {
  const auto fields = stat_fields(pid);
  return !fields.empty() && fields[0] == "Z";
}

std::optional<int> status_of_zombie(pid_t pid) {
  constexpr size_t kExitCode = 49;
  const auto fields = stat_fields(pid);
  if (fields.size() <= kExitCode || fields[0] != "Z") return std::nullopt;
  return std::atoi(fields[kExitCode].c_str());
}

std::optional<int> status_of_pidfd(int pidfd) {
  PidfdInfo info{};
  info.mask = kPidfdInfoExit;
  if (::ioctl(pidfd, kPidfdGetInfo, &info) != 0 || (info.mask & kPidfdInfoExit) == 0) return std::nullopt;
  return info.exit_code;
}

// Of a process that is not ours to wait for, or not yet.
ExitStatus find_status(int pidfd, pid_t pid) {
  if (const auto found = status_of_zombie(pid)) return from_wait_status(*found);
  if (const auto found = status_of_pidfd(pidfd)) return from_wait_status(*found);
  return {.known = false, .status = 0, .signal = 0, .at_unix_s = ::time(nullptr)};
}

// Of all our threads: a child belongs to the thread that forked it, an orphan to any.
std::vector<pid_t> children() {
  std::vector<pid_t> result;
  std::error_code error;
  for (const auto& task : std::filesystem::directory_iterator("/proc/self/task", error)) {
    std::istringstream stream(read_file(task.path() / "children").value_or(""));
    for (pid_t pid = 0; stream >> pid;) result.push_back(pid);
  }
  return result;
}

}  // namespace

Result<std::unique_ptr<Reaper>> Reaper::start(OnExit on_exit) {
  if (::prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0) return fail("become", "a subreaper");
  std::unique_ptr<Reaper> reaper(new Reaper(std::move(on_exit)));
  reaper->epoll_.reset(::epoll_create1(EPOLL_CLOEXEC));
  reaper->wake_.reset(::eventfd(0, EFD_CLOEXEC));
  if (!reaper->epoll_.valid() || !reaper->wake_.valid()) return fail("make", "the reaper's descriptors");
  epoll_event event{.events = EPOLLIN, .data = {.fd = reaper->wake_.get()}};
  if (::epoll_ctl(reaper->epoll_.get(), EPOLL_CTL_ADD, reaper->wake_.get(), &event) != 0)
    return fail("watch", "the reaper's wake-up");
  reaper->thread_ = std::thread([self = reaper.get()] { self->loop(); });
  return reaper;
}

Reaper::~Reaper() {
  const uint64_t one = 1;
  if (::write(wake_.get(), &one, sizeof one) != sizeof one) spdlog::warn("the reaper cannot be woken");
  if (thread_.joinable()) thread_.join();
  for (const auto& [pidfd, watched] : watched_) ::close(pidfd);
}

Result<void> Reaper::watch(const std::string& id, pid_t pid) {
  Fd pidfd(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0)));
  if (!pidfd.valid()) return fail("watch", fmt::format("the first process of {}, pid {}", id, pid));
  const std::lock_guard lock(mutex_);
  epoll_event event{.events = EPOLLIN, .data = {.fd = pidfd.get()}};
  if (::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, pidfd.get(), &event) != 0)
    return fail("watch", fmt::format("the first process of {}, pid {}", id, pid));
  watched_[pidfd.release()] = Watched{.id = id, .pid = pid};
  return {};
}

void Reaper::loop() {
  for (;;) {
    epoll_event event{};
    const int ready =
        ::epoll_wait(epoll_.get(), &event, 1, traced_.empty() ? kOrphanRoundMs : kTracedRoundMs);
    if (ready == 1 && event.data.fd == wake_.get()) return;
    if (ready == 1) bury(event.data.fd);
    bury_traced();
    // Also where processes end all the time.
    if (monotonic_us() - orphans_sought_us_ >= kOrphanRoundMs * 1000) bury_orphans();
  }
}

void Reaper::bury(int pidfd) {
  const Fd owner(pidfd);
  Watched watched;
  {
    const std::lock_guard lock(mutex_);
    watched = watched_.at(pidfd);
    watched_.erase(pidfd);
    ::epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, pidfd, nullptr);
  }
  int status = 0;
  const pid_t waited = ::waitpid(watched.pid, &status, WNOHANG | __WALL);
  if (waited == 0) traced_.insert(watched.pid);
  on_exit_(watched.id, waited == watched.pid ? from_wait_status(status) : find_status(pidfd, watched.pid));
}

void Reaper::bury_traced() {
  std::erase_if(traced_, [](pid_t pid) { return ::waitpid(pid, nullptr, WNOHANG | __WALL) != 0; });
}

void Reaper::bury_orphans() {
  std::map<pid_t, int64_t> still;
  const int64_t now_us = orphans_sought_us_ = monotonic_us();
  for (const pid_t pid : children()) {
    if (!is_zombie(pid)) continue;
    const auto known = zombies_since_us_.find(pid);
    const int64_t since_us = known == zombies_since_us_.end() ? now_us : known->second;
    if (now_us - since_us < kOrphanAgeUs)
      still[pid] = since_us;
    else
      ::waitpid(pid, nullptr, WNOHANG | __WALL);
  }
  zombies_since_us_ = std::move(still);
}

}  // namespace godwit::engine
