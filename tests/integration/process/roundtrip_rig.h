// What tests of whole containers share: processes 1 of namespaces of their own, their cgroups, and the
// copying of memory from one to the other.
#pragma once

#include <fcntl.h>
#include <linux/sched.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstring>
#include <fstream>
#include <functional>
#include <string>
#include <vector>

#include "base/fd.h"
#include "runtime/process/capture.h"
#include "runtime/process/replica.h"

namespace godwit::runtime::test {

#define EXPECT_DONE(expression)                                                             \
  do {                                                                                      \
    const auto outcome = (expression);                                                      \
    ASSERT_TRUE(outcome.has_value()) << #expression << ": " << outcome.error().to_string(); \
  } while (false)

// A cgroup (v2, hybrid or not) that goes with everything in it.
class Cgroup {
 public:
  Cgroup() {
    static int number = 0;
    const std::string root = ::access("/sys/fs/cgroup/unified/cgroup.procs", F_OK) == 0
                                 ? "/sys/fs/cgroup/unified"
                                 : "/sys/fs/cgroup";
    path_ = root + "/godwit-roundtrip-" + std::to_string(::getpid()) + "-" + std::to_string(number++);
    ::mkdir(path_.c_str(), 0755);
  }
  Cgroup(const Cgroup&) = delete;
  Cgroup& operator=(const Cgroup&) = delete;
  ~Cgroup() {
    write("cgroup.kill", "1");
    for (int i = 0; i < 2000 && ::rmdir(path_.c_str()) != 0; ++i) ::usleep(1000);
  }
  void add(pid_t pid) const { write("cgroup.procs", std::to_string(pid)); }

 private:
  void write(const std::string& file, const std::string& text) const {
    std::ofstream(path_ + "/" + file) << text;
  }
  std::string path_;
};

// A process 1 of new pid, mount, ipc, uts and network namespaces.
inline pid_t start_init(const Cgroup& cgroup, const std::function<void()>& body) {
  int go[2];
  if (::pipe2(go, O_CLOEXEC) != 0) return -1;
  clone_args arguments{};
  arguments.flags = CLONE_NEWPID | CLONE_NEWNS | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWNET;
  arguments.exit_signal = SIGCHLD;
  const auto pid = static_cast<pid_t>(::syscall(SYS_clone3, &arguments, sizeof arguments));
  if (pid == 0) {
    char byte = 0;
    ::close(go[1]);
    static_cast<void>(::read(go[0], &byte, 1));
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    ::setsid();
    ::mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr);
    ::mount("proc", "/proc", "proc", 0, nullptr);
    static_cast<void>(::chdir("/"));
    body();
    ::_exit(127);
  }
  ::close(go[0]);
  cgroup.add(pid);
  ::close(go[1]);
  return pid;
}

// Every readable byte of a private mapping, where it differs.
inline Result<void> copy_mapping(int from, int to, const model::Mapping& mapping) {
  constexpr size_t kPiece = 1 << 16;
  std::vector<char> ours(kPiece), theirs(kPiece);
  for (uint64_t at = mapping.start(); at < mapping.end();) {
    const size_t size = std::min<uint64_t>(kPiece, mapping.end() - at);
    const ssize_t got = ::pread(from, ours.data(), size, static_cast<off_t>(at));
    if (got <= 0) return {};  // beyond the end of a file
    const auto length = static_cast<size_t>(got);
    const ssize_t there = ::pread(to, theirs.data(), length, static_cast<off_t>(at));
    if (there != got || std::memcmp(ours.data(), theirs.data(), length) != 0) {
      if (::pwrite(to, ours.data(), length, static_cast<off_t>(at)) != got) {
        return fail("write", std::to_string(at));
      }
    }
    at += length;
  }
  return {};
}

inline Result<void> copy_pages(Capture& capture, Replica& replica, const model::Snapshot& snapshot) {
  for (const auto& process : snapshot.processes()) {
    pid_t host = 0;
    for (const auto& one : capture.processes()) {
      if (static_cast<uint32_t>(one.container_pid) == process.pid()) host = one.host_pid;
    }
    GODWIT_ASSIGN(const pid_t there, replica.host_pid(process.pid()));
    GODWIT_ASSIGN(const Fd from, open_file("/proc/" + std::to_string(host) + "/mem", O_RDONLY));
    GODWIT_ASSIGN(const Fd to, open_file("/proc/" + std::to_string(there) + "/mem", O_RDWR));
    for (const auto& mapping : process.memory().mappings()) {
      if ((mapping.flags() & MAP_SHARED) == 0) GODWIT_TRY(copy_mapping(from.get(), to.get(), mapping));
    }
  }
  for (const auto& memory : snapshot.shared_memory()) {
    GODWIT_ASSIGN(const int from, capture.shared_memory_fd(memory.id()));
    GODWIT_ASSIGN(const int to, replica.shared_memory_fd(memory.id()));
    std::vector<char> bytes(memory.size());
    const ssize_t got = ::pread(from, bytes.data(), bytes.size(), 0);
    if (got > 0 && ::pwrite(to, bytes.data(), static_cast<size_t>(got), 0) != got)
      return fail("copy", "shared");
  }
  return {};
}

}  // namespace godwit::runtime::test
