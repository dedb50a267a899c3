#include "base/command.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cstring>

#include "base/clock.h"
#include "base/fd.h"

namespace godwit {
namespace {

// Descriptors are first moved above this, so that putting one in its place never overwrites another.
constexpr int kHighFd = 64;

struct Pipe {
  Fd reader;
  Fd writer;
};

Result<Pipe> make_pipe() {
  std::array<int, 2> ends{};
  if (::pipe2(ends.data(), O_CLOEXEC) != 0) return fail("create", "a pipe");
  return Pipe{.reader = Fd(ends[0]), .writer = Fd(ends[1])};
}

// A file that holds `text`, to be read from its start.
Result<Fd> input_file(const std::string& text) {
  if (text.empty()) return open_file("/dev/null", O_RDONLY);
  Fd file(::memfd_create("godwit-input", MFD_CLOEXEC));
  if (!file.valid()) return fail("create", "a file for a command's input");
  for (size_t done = 0; done < text.size();) {
    const ssize_t written =
        ::pwrite(file.get(), text.data() + done, text.size() - done, static_cast<off_t>(done));
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) return fail("write", "a command's input");
    done += static_cast<size_t>(written);
  }
  return file;
}

Result<Fd> move_high(int fd) {
  Fd high(::fcntl(fd, F_DUPFD_CLOEXEC, kHighFd));
  if (!high.valid()) return fail("duplicate", "fd " + std::to_string(fd));
  return high;
}

// posix_spawn(3)'s two option objects, freed together.
class SpawnOptions {
 public:
  SpawnOptions() {
    ::posix_spawn_file_actions_init(&actions);
    ::posix_spawnattr_init(&attributes);
  }
  SpawnOptions(const SpawnOptions&) = delete;
  SpawnOptions& operator=(const SpawnOptions&) = delete;
  ~SpawnOptions() {
    ::posix_spawn_file_actions_destroy(&actions);
    ::posix_spawnattr_destroy(&attributes);
  }
  posix_spawn_file_actions_t actions{};
  posix_spawnattr_t attributes{};
};

int set_options(SpawnOptions& options, const std::vector<Fd>& passed, int in, int out, int err) {
  auto* actions = &options.actions;
  int code = ::posix_spawn_file_actions_adddup2(actions, in, 0);
  if (code == 0) code = ::posix_spawn_file_actions_adddup2(actions, out, 1);
  if (code == 0) code = ::posix_spawn_file_actions_adddup2(actions, err, 2);
  int next = 3;
  for (const Fd& fd : passed) {
    if (code == 0) code = ::posix_spawn_file_actions_adddup2(actions, fd.get(), next++);
  }
  if (code == 0) code = ::posix_spawn_file_actions_addclosefrom_np(actions, next);
  sigset_t none;
  sigset_t all;
  ::sigemptyset(&none);
  // sigfillset(3) leaves out the two signals that glibc keeps for itself, and the child would ignore those.
  std::memset(&all, 0xff, sizeof all);
  if (code == 0) code = ::posix_spawnattr_setsigmask(&options.attributes, &none);
  if (code == 0) code = ::posix_spawnattr_setsigdefault(&options.attributes, &all);
  if (code == 0) code = ::posix_spawnattr_setpgroup(&options.attributes, 0);
  if (code == 0)
    code = ::posix_spawnattr_setflags(&options.attributes,
                                      POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETPGROUP);
  return code;
}

std::vector<char*> pointers(const std::vector<std::string>& strings) {
  std::vector<char*> list;
  list.reserve(strings.size() + 1);
  for (const std::string& text : strings) list.push_back(const_cast<char*>(text.c_str()));
  list.push_back(nullptr);
  return list;
}

Result<pid_t> spawn(const Command& command, int out, int err) {
  std::vector<Fd> passed;
  for (const int fd : command.descriptors) {
    GODWIT_ASSIGN(Fd high, move_high(fd));
    passed.push_back(std::move(high));
  }
  GODWIT_ASSIGN(const Fd input, input_file(command.input));
  GODWIT_ASSIGN(const Fd high_in, move_high(input.get()));
  GODWIT_ASSIGN(const Fd high_out, move_high(out));
  GODWIT_ASSIGN(const Fd high_err, move_high(err));
  SpawnOptions options;
  int code = set_options(options, passed, high_in.get(), high_out.get(), high_err.get());
  const auto arguments = pointers(command.arguments);
  const auto environment = pointers(command.environment);
  pid_t pid = 0;
  if (code == 0)
    code = ::posix_spawnp(&pid, arguments[0], &options.actions, &options.attributes, arguments.data(),
                          environment.data());
  const std::string& package = command.package.empty() ? command.arguments[0] : command.package;
  if (code != 0) return fail("run", command.arguments[0], code, code == ENOENT ? "install " + package : "");
  return pid;
}

Result<int> reap(pid_t pid, const std::string& name) {
  siginfo_t info{};
  int result = 0;
  do {
    result = ::waitid(P_PID, static_cast<id_t>(pid), &info, WEXITED);
  } while (result != 0 && errno == EINTR);
  if (result != 0) return fail("wait for", name, errno, "its exit status was taken by somebody else");
  return info.si_code == CLD_EXITED ? info.si_status : 128 + info.si_status;
}

// Reads what there is; false at the end of the stream.
Result<bool> drain(int fd, std::string& into, size_t bytes_max, const std::string& name) {
  std::array<char, 16384> buffer{};
  const ssize_t got = ::read(fd, buffer.data(), buffer.size());
  if (got < 0 && errno == EINTR) return true;
  if (got < 0) return fail("read the output of", name);
  if (into.size() + static_cast<size_t>(got) > bytes_max) return fail("read the output of", name, EMSGSIZE);
  into.append(buffer.data(), static_cast<size_t>(got));
  return got > 0;
}

// Collects output until the child has ended. Pipes alone would not do: a daemon that the child leaves behind
// may keep them open for ever.
Result<void> collect(const Command& command, int pidfd, int out, int err, CommandOutcome& outcome) {
  const int64_t deadline_us = monotonic_us() + int64_t{command.timeout_ms} * 1000;
  const std::string& name = command.arguments[0];
  std::array<pollfd, 3> waits{pollfd{pidfd, POLLIN, 0}, pollfd{out, POLLIN, 0}, pollfd{err, POLLIN, 0}};
  for (;;) {
    const int64_t left_us = deadline_us - monotonic_us();
    if (left_us <= 0) return fail("run", name, ETIMEDOUT);
    const bool ended = (waits[0].revents & POLLIN) != 0;
    const int ready = ::poll(waits.data(), waits.size(), ended ? 0 : static_cast<int>(left_us / 1000) + 1);
    if (ready < 0 && errno != EINTR) return fail("wait for", name);
    if (ready <= 0) continue;
    bool more = false;
    for (size_t i = 1; i < waits.size(); ++i) {
      if ((waits[i].revents & (POLLIN | POLLHUP | POLLERR)) == 0) continue;
      std::string& into = i == 1 ? outcome.output : outcome.errors;
      GODWIT_ASSIGN(const bool open, drain(waits[i].fd, into, command.output_bytes_max, name));
      if (!open) waits[i].fd = -1;
      more = more || open;
    }
    if ((waits[0].revents & POLLIN) != 0 && !more) return {};
  }
}

}  // namespace

Result<CommandOutcome> run_command(const Command& command, bool merge_output) {
  if (command.arguments.empty()) return refuse("run", "an empty command", "no program is named");
  const bool capture = command.output_fd < 0;
  Pipe out;
  Pipe err;
  if (capture) {
    GODWIT_ASSIGN(out, make_pipe());
    if (!merge_output) {
      GODWIT_ASSIGN(err, make_pipe());
    }
  }
  const int out_fd = capture ? out.writer.get() : command.output_fd;
  const int err_fd = capture && !merge_output ? err.writer.get() : out_fd;
  GODWIT_ASSIGN(const pid_t pid, spawn(command, out_fd, err_fd));
  out.writer.reset();
  err.writer.reset();

  CommandOutcome outcome;
  const Fd pidfd(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0)));
  Result<void> collected = pidfd.valid()
                               ? collect(command, pidfd.get(), out.reader.get(), err.reader.get(), outcome)
                               : fail("open a pidfd of", command.arguments[0]);
  if (!collected) ::kill(-pid, SIGKILL);
  auto status = reap(pid, command.arguments[0]);
  if (!collected) return std::unexpected(std::move(collected).error());
  if (!status) return std::unexpected(std::move(status).error());
  outcome.exit_status = *status;
  return outcome;
}

}  // namespace godwit
