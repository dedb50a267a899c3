#include "runtime/container/freezer.h"

#include <dirent.h>
#include <fcntl.h>
#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <filesystem>
#include <memory>
#include <string_view>

#include "runtime/container/cgroup.h"
#include "runtime/kernel/thread_state.h"

namespace godwit::runtime {
namespace {

// Freezing takes 0.06 ms as a rule, but poll(2) wakes up 2 ms late (measured), or 10 where two changes follow
// each other closely, as the kernel spaces notifications of cgroup.events that far. So look this long before
// waiting. Between two looks this thread sleeps: it may be of the highest priority, and the tasks that are to
// freeze may need its processor for their last steps.
constexpr int64_t kLookUs = 5000;
constexpr useconds_t kLookPauseUs = 20;
// How much longer they may stand still so that the user learns why.
constexpr int64_t kNamingMs = 10;
constexpr int kDepthMax = 32;
constexpr size_t kProcessesMax = 1 << 20;

Result<std::string_view> reread(const Fd& fd, std::array<char, 256>& buffer, const std::string& name) {
  const ssize_t got = ::pread(fd.get(), buffer.data(), buffer.size(), 0);
  if (got < 0) return fail("read", name);
  return std::string_view(buffer.data(), static_cast<size_t>(got));
}

Result<void> add_processes(int fd, const std::string& name, std::vector<pid_t>& into) {
  auto text = read_all(fd, name);
  // A threaded cgroup lists its processes in its domain's file only.
  if (!text && text.error().code == EOPNOTSUPP) return {};
  if (!text) return std::unexpected(std::move(text).error());
  const char* at = text->data();
  const char* const end = at + text->size();
  while (at < end) {
    pid_t pid = 0;
    const auto [next, code] = std::from_chars(at, end, pid);
    if (code != std::errc() || next == end || *next != '\n')
      return refuse("read", name, "not a list of pids");
    if (pid <= 0) return refuse("list", name, "a process in it is outside of our pid namespace");
    if (into.size() == kProcessesMax) return fail("list", name, E2BIG);
    into.push_back(pid);
    at = next + 1;
  }
  return {};
}

std::vector<pid_t> threads_of(pid_t pid) {
  std::vector<pid_t> tids;
  std::error_code error;
  for (const auto& entry :
       std::filesystem::directory_iterator("/proc/" + std::to_string(pid) + "/task", error)) {
    const std::string name = entry.path().filename();
    pid_t tid = 0;
    if (std::from_chars(name.data(), name.data() + name.size(), tid).ec == std::errc{}) tids.push_back(tid);
  }
  return tids;
}

// Children may vanish while we look: what is gone has no processes.
Result<void> list_processes(Fd directory, const std::string& name, int depth, std::vector<pid_t>& into) {
  if (depth > kDepthMax) return fail("list", name, ELOOP);
  GODWIT_ASSIGN(const Fd procs, open_file_at(directory.get(), "cgroup.procs", O_RDONLY));
  GODWIT_TRY(add_processes(procs.get(), name + "/cgroup.procs", into));
  const auto close = [](DIR* stream) { ::closedir(stream); };
  const std::unique_ptr<DIR, decltype(close)> stream(::fdopendir(directory.get()), close);
  if (stream == nullptr) return fail("list", name);
  const int parent = directory.release();  // the stream's now
  while (const dirent* entry = ::readdir(stream.get())) {
    const std::string child = entry->d_name;
    if (entry->d_type != DT_DIR || child == "." || child == "..") continue;
    auto inner = open_file_at(parent, child, O_RDONLY | O_DIRECTORY | O_NOFOLLOW);
    if (!inner && inner.error().code == ENOENT) continue;
    if (!inner) return std::unexpected(std::move(inner).error());
    auto listed =
        list_processes(std::move(*inner), std::string(name).append("/").append(child), depth + 1, into);
    if (!listed && listed.error().code != ENOENT && listed.error().code != ENODEV) return listed;
  }
  return {};
}

}  // namespace

Result<Freezer> Freezer::open(pid_t pid) {
  Freezer freezer;
  const auto unified = cgroup_directory(pid, "");
  freezer.version2_ = unified && ::access((*unified + "/cgroup.freeze").c_str(), W_OK) == 0;
  if (freezer.version2_) {
    freezer.directory_ = *unified;
  } else {
    GODWIT_ASSIGN(freezer.directory_, cgroup_directory(pid, "freezer"));
  }
  const std::string& directory = freezer.directory_;
  GODWIT_ASSIGN(const bool ours, cgroup_holds_caller(directory, freezer.version2_ ? "" : "freezer"));
  if (ours) return refuse("open the freezer of", directory, "this very process is in it");
  GODWIT_ASSIGN(freezer.state_,
                open_file(directory + (freezer.version2_ ? "/cgroup.freeze" : "/freezer.state"), O_RDWR));
  if (freezer.version2_) {
    GODWIT_ASSIGN(freezer.events_, open_file(directory + "/cgroup.events", O_RDONLY));
  }
  return freezer;
}

Result<void> Freezer::write_state(bool frozen) {
  const std::string_view word =
      version2_ ? std::string_view(frozen ? "1" : "0") : std::string_view(frozen ? "FROZEN" : "THAWED");
  if (::pwrite(state_.get(), word.data(), word.size(), 0) != static_cast<ssize_t>(word.size()))
    return fail(frozen ? "freeze" : "thaw", directory_);
  return {};
}

Result<void> Freezer::freeze(Deadline deadline) {
  auto frozen = version2_ ? write_state(true) : freeze_v1(deadline);
  if (frozen && version2_) frozen = await_v2(deadline);
  if (frozen) return {};
  if (const auto thawed = thaw(); !thawed)
    frozen.error().hint = "and it could not be thawed either: " + thawed.error().to_string();
  return frozen;
}

Result<void> Freezer::await_v2(Deadline deadline) {
  std::array<char, 256> buffer{};
  const Deadline look_until = Deadline::in_us(kLookUs);
  for (;;) {
    // Reading also marks the events as seen, so that poll below waits for newer ones only.
    GODWIT_ASSIGN(const std::string_view events, reread(events_, buffer, directory_ + "/cgroup.events"));
    if (events.find("frozen 1") != std::string_view::npos) return {};
    if (deadline.passed()) return too_late();
    if (!look_until.passed()) {
      ::usleep(kLookPauseUs);
      continue;
    }
    pollfd wait{events_.get(), POLLPRI, 0};
    if (::poll(&wait, 1, deadline.left_ms()) < 0 && errno != EINTR)
      return fail("wait for", directory_ + "/cgroup.events");
  }
}

// v1 tells nobody when it is done, and a task that forks meanwhile can keep it FREEZING until it is asked
// again: ask and look.
Result<void> Freezer::freeze_v1(Deadline deadline) {
  std::array<char, 256> buffer{};
  const Deadline look_until = Deadline::in_us(kLookUs);
  for (;;) {
    GODWIT_TRY(write_state(true));
    GODWIT_ASSIGN(const std::string_view state, reread(state_, buffer, directory_ + "/freezer.state"));
    if (state.starts_with("FROZEN")) return {};
    if (deadline.passed()) return too_late();
    ::usleep(look_until.passed() ? 500 : kLookPauseUs);
  }
}

// One that is in the kernel and not in vfork(2), which counts as frozen, is what all wait for. (The v1
// freezer shows frozen threads like that too.)
std::unexpected<Error> Freezer::too_late() const {
  const Deadline enough = Deadline::in_ms(kNamingMs);
  for (const pid_t pid : processes().value_or(std::vector<pid_t>{})) {
    for (const pid_t tid : threads_of(pid)) {
      if (enough.passed()) break;
      if (const char state = thread_state(tid); state != 'D' && state != 'R') continue;
      if (waits_in_vfork(tid)) continue;
      const std::string place = what_holds(tid);
      if (version2_ || place.find("refrigerator") == std::string::npos)
        return fail("freeze", thread_name(tid), EAGAIN, place);
    }
  }
  return fail("freeze", directory_, EAGAIN, "a thread of it does not come out of the kernel");
}

Result<void> Freezer::thaw() {
  return write_state(false);
}

Result<std::vector<pid_t>> Freezer::processes() const {
  GODWIT_ASSIGN(Fd directory, open_file(directory_, O_RDONLY | O_DIRECTORY));
  std::vector<pid_t> pids;
  GODWIT_TRY(list_processes(std::move(directory), directory_, 0, pids));
  // cgroups(7): neither sorted nor free of duplicates.
  std::sort(pids.begin(), pids.end());
  pids.erase(std::unique(pids.begin(), pids.end()), pids.end());
  return pids;
}

}  // namespace godwit::runtime
