#include "runtime/kernel/features.h"

#include <fcntl.h>
#include <linux/capability.h>
#include <linux/io_uring.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <functional>

#include "base/fd.h"
#include "runtime/kernel/uapi.h"

namespace godwit::runtime {
namespace {

constexpr size_t kPage = 4096;

// Runs `body` in a child of its own, which it may break as it likes.
bool in_child(const std::function<bool()>& body) {
  const pid_t child = ::fork();
  if (child == 0) ::_exit(body() ? 0 : 1);
  int status = 0;
  return child > 0 && ::waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

bool has_uffd(uint64_t feature) {
  const Fd fd(static_cast<int>(::syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK)));
  uffdio_api api{.api = UFFD_API, .features = feature, .ioctls = 0};
  return fd.valid() && ::ioctl(fd.get(), UFFDIO_API, &api) == 0;
}

bool scans_pagemap() {
  const auto map = open_file("/proc/self/pagemap", O_RDONLY);
  void* page =
      ::mmap(nullptr, kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
  if (!map.has_value() || page == MAP_FAILED) return false;
  uapi::PageRegion region{};
  uapi::PagemapScan scan{};
  scan.size = sizeof scan;
  scan.start = std::bit_cast<uint64_t>(page);
  scan.end = scan.start + kPage;
  scan.vec = std::bit_cast<uint64_t>(&region);
  scan.vec_len = 1;
  scan.category_mask = scan.return_mask = uapi::kPagePresent;
  const bool found = ::ioctl(map->get(), uapi::kPagemapScan, &scan) == 1;
  ::munmap(page, kPage);
  return found;
}

// Protects a page of its own and looks for bit 57 of its entry (Documentation/admin-guide/mm/pagemap.rst).
bool shows_protection() {
  return in_child([] {
    void* page =
        ::mmap(nullptr, kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
    const Fd fd(static_cast<int>(::syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK)));
    const auto map = open_file("/proc/self/pagemap", O_RDONLY);
    uffdio_api api{.api = UFFD_API, .features = UFFD_FEATURE_PAGEFAULT_FLAG_WP, .ioctls = 0};
    if (page == MAP_FAILED || !map.has_value() || ::ioctl(fd.get(), UFFDIO_API, &api) != 0) return false;
    const auto start = std::bit_cast<uint64_t>(page);
    uffdio_register request{.range = {start, kPage}, .mode = UFFDIO_REGISTER_MODE_WP, .ioctls = 0};
    uffdio_writeprotect protect{.range = {start, kPage}, .mode = UFFDIO_WRITEPROTECT_MODE_WP};
    uint64_t entry = 0;
    return ::ioctl(fd.get(), UFFDIO_REGISTER, &request) == 0 &&
           ::ioctl(fd.get(), UFFDIO_WRITEPROTECT, &protect) == 0 &&
           ::pread(map->get(), &entry, sizeof entry, static_cast<off_t>(start / kPage * sizeof entry)) ==
               sizeof entry &&
           (entry >> 57U & 1U) != 0;
  });
}

// clear_refs accepts the request on kernels that then record nothing: write a page and look.
bool has_soft_dirty() {
  return in_child([] {
    auto* page = static_cast<volatile char*>(
        ::mmap(nullptr, kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0));
    const auto map = open_file("/proc/self/pagemap", O_RDONLY);
    if (page == MAP_FAILED || !map.has_value() || !write_file("/proc/self/clear_refs", "4").has_value())
      return false;
    const auto dirty = [&] {
      uint64_t entry = 0;
      const auto where = static_cast<off_t>(std::bit_cast<uint64_t>(page) / kPage * sizeof entry);
      return ::pread(map->get(), &entry, sizeof entry, where) == sizeof entry && (entry >> 55U & 1U) != 0;
    };
    const bool before = dirty();
    page[0] = 1;
    return !before && dirty();
  });
}

bool has_tcp_repair() {
  const Fd fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  const int on = 1;
  return fd.valid() && ::setsockopt(fd.get(), IPPROTO_TCP, TCP_REPAIR, &on, sizeof on) == 0;
}

// In a pid namespace of its own, where every number but 1 is free.
bool has_chosen_pids() {
  return in_child([] {
    if (::unshare(CLONE_NEWPID) != 0) return false;
    const pid_t wanted = 1;
    clone_args arguments{};
    arguments.exit_signal = SIGCHLD;
    arguments.set_tid = std::bit_cast<uint64_t>(&wanted);
    arguments.set_tid_size = 1;
    const long child = ::syscall(SYS_clone3, &arguments, sizeof arguments);
    if (child == 0) ::_exit(0);
    return child > 0 && ::waitpid(static_cast<pid_t>(child), nullptr, 0) == child;
  });
}

bool has_time_namespace() {
  return in_child([] {
    return ::unshare(CLONE_NEWTIME) == 0 &&
           write_file("/proc/self/timens_offsets", "monotonic 10 0").has_value();
  });
}

// A cgroup of the freezer's hierarchy is made and removed again. The root itself has no freezer files.
bool has_freezer(const std::vector<std::string>& roots, const std::string& file) {
  for (const auto& root : roots) {
    const std::string group = root + "/godwit-probe-" + std::to_string(::getpid());
    std::error_code error;
    if (!std::filesystem::create_directory(group, error)) continue;
    const bool found = ::access((group + "/" + file).c_str(), W_OK) == 0;
    ::rmdir(group.c_str());
    if (found) return true;
  }
  return false;
}

bool has_io_uring() {
  io_uring_params parameters{};
  const Fd ring(static_cast<int>(::syscall(SYS_io_uring_setup, 4, &parameters)));
  return ring.valid();
}

bool has_pidfd_getfd() {
  const Fd self(static_cast<int>(::syscall(SYS_pidfd_open, ::getpid(), 0)));
  const Fd any(::memfd_create("godwit-probe", MFD_CLOEXEC));
  const Fd copy(static_cast<int>(::syscall(SYS_pidfd_getfd, self.get(), any.get(), 0)));
  return copy.valid();
}

// Seizes a child and asks what is asked of a container.
bool child_answers(uint64_t options, const std::function<bool(pid_t)>& ask) {
  const pid_t child = ::fork();
  if (child == 0)
    for (;;) ::pause();
  if (child < 0) return false;
  const bool held = ::ptrace(PTRACE_SEIZE, child, 0UL, options) == 0 &&
                    ::ptrace(PTRACE_INTERRUPT, child, 0UL, 0UL) == 0 &&
                    ::waitpid(child, nullptr, __WALL) == child;
  const bool answered = held && ask(child);
  ::kill(child, SIGKILL);
  ::waitpid(child, nullptr, __WALL);
  return answered;
}

bool has_rseq_configuration() {
  return child_answers(0, [](pid_t child) {
    __ptrace_rseq_configuration found{};
    return ::ptrace(PTRACE_GET_RSEQ_CONFIGURATION, child, sizeof found, &found) > 0;
  });
}

bool has_suspended_seccomp() {
  return child_answers(PTRACE_O_SUSPEND_SECCOMP, [](pid_t) { return true; });
}

// The size question succeeds wherever the operation exists (CONFIG_CHECKPOINT_RESTORE).
bool has_mm_map() {
  unsigned size = 0;
  return ::prctl(PR_SET_MM, PR_SET_MM_MAP_SIZE, &size, 0, 0) == 0 && size != 0;
}

bool has_map_files() {
  const Fd memory(::memfd_create("godwit-probe", MFD_CLOEXEC));
  if (!memory.valid() || ::ftruncate(memory.get(), kPage) != 0) return false;
  void* page = ::mmap(nullptr, kPage, PROT_READ, MAP_SHARED, memory.get(), 0);
  if (page == MAP_FAILED) return false;
  char name[64];
  const auto start = std::bit_cast<uint64_t>(page);
  std::snprintf(name, sizeof name, "/proc/self/map_files/%lx-%lx", start, start + kPage);
  const bool found = open_file(name, O_RDWR).has_value();
  ::munmap(page, kPage);
  return found;
}

bool has_capability(unsigned number) {
  __user_cap_header_struct header{.version = _LINUX_CAPABILITY_VERSION_3, .pid = 0};
  std::array<__user_cap_data_struct, 2> data{};
  if (::syscall(SYS_capget, &header, data.data()) != 0) return false;
  return (data[number / 32].effective >> (number % 32) & 1U) != 0;
}

// Makes a bridge in a network namespace of the child's own.
bool has_bridge() {
  return in_child([] {
    if (::unshare(CLONE_NEWNET) != 0) return false;
    const Fd control(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
    constexpr unsigned long kAddBridge = 0x89a0;  // SIOCBRADDBR
    return control.valid() && ::ioctl(control.get(), kAddBridge, "gdprobe") == 0;
  });
}

bool has_tap() {
  return open_file("/dev/net/tun", O_RDWR).has_value();
}

}  // namespace

bool has_pagemap_scan() {
  static const bool found = scans_pagemap();
  return found;
}

const TrackingAbilities& tracking_abilities() {
  static const TrackingAbilities found{
      .uffd_async = has_pagemap_scan() && has_uffd(UFFD_FEATURE_WP_ASYNC | UFFD_FEATURE_WP_UNPOPULATED |
                                                   UFFD_FEATURE_PAGEFAULT_FLAG_WP),
      .uffd_sync = shows_protection(),
      .soft_dirty = has_soft_dirty()};
  return found;
}

std::vector<Feature> probe_features() {
  const TrackingAbilities& tracking = tracking_abilities();
  // One of three will do.
  const bool no_tracker = !tracking.uffd_async && !tracking.soft_dirty && !tracking.uffd_sync;
  const std::string tracing = "run as root, not inside a container that drops capabilities or filters ptrace";
  std::vector<Feature> features{
      {"userfaultfd WP_ASYNC", tracking.uffd_async, no_tracker, "tracking written pages (uffd)",
       "Linux 6.7 or later with CONFIG_USERFAULTFD and CONFIG_PTE_MARKER_UFFD_WP"},
      {"soft-dirty", tracking.soft_dirty, false, "tracking written pages (soft-dirty)",
       "a kernel with CONFIG_MEM_SOFT_DIRTY"},
      {"userfaultfd write-protect", tracking.uffd_sync, false, "tracking written pages (uffd-sync)",
       "Linux 5.13 or later with CONFIG_USERFAULTFD"},
      {"PAGEMAP_SCAN", has_pagemap_scan(), false, "finding populated and written pages fast",
       "Linux 6.7 or later"},
      {"TCP_REPAIR", has_tcp_repair(), true, "moving TCP connections", "CAP_NET_ADMIN"},
      {"clone3 set_tid", has_chosen_pids(), true, "processes that keep their pids",
       "CAP_SYS_ADMIN or CAP_CHECKPOINT_RESTORE; Linux 5.5 or later"},
      {"time namespaces", has_time_namespace(), true, "a monotonic clock that never runs backwards",
       "a kernel with CONFIG_TIME_NS; CAP_SYS_ADMIN and CAP_SYS_TIME"},
      {"cgroup v2 freezer", has_freezer({"/sys/fs/cgroup", "/sys/fs/cgroup/unified"}, "cgroup.freeze"), false,
       "stopping a container at once", "mount cgroup2 at /sys/fs/cgroup or /sys/fs/cgroup/unified"},
      {"cgroup v1 freezer", has_freezer({"/sys/fs/cgroup/freezer"}, "freezer.state"), false,
       "stopping a container where there is no v2", "needed only without the v2 freezer"},
      {"io_uring", has_io_uring(), false, "sending pages with few system calls",
       "sysctl kernel.io_uring_disabled=0; plain sockets serve otherwise"},
      {"pidfd_getfd", has_pidfd_getfd(), true, "reading open files", "Linux 5.6 or later"},
      {"ptrace rseq configuration", has_rseq_configuration(), true, "restartable sequences of the C library",
       "Linux 5.13 or later with CONFIG_RSEQ; " + tracing},
      {"ptrace with seccomp suspended", has_suspended_seccomp(), true, "asking confined processes",
       "a kernel with CONFIG_CHECKPOINT_RESTORE; " + tracing},
      {"PR_SET_MM_MAP", has_mm_map(), true, "rebuilding an address space",
       "a kernel with CONFIG_CHECKPOINT_RESTORE"},
      {"map_files", has_map_files(), true, "reaching shared memory",
       "CAP_SYS_ADMIN or CAP_CHECKPOINT_RESTORE"},
      {"CAP_CHECKPOINT_RESTORE", has_capability(CAP_CHECKPOINT_RESTORE), true, "rebuilding processes",
       "run as root"},
      {"tap devices", has_tap(), true, "parking packets during the cutover", "modprobe tun"},
      {"bridge", has_bridge(), false, "container networks by CNI's bridge plugin", "modprobe bridge"},
  };
  // One of the two freezers will do.
  const auto freezer = [&](const char* name) -> Feature& {
    return *std::ranges::find(features, name, &Feature::name);
  };
  if (!freezer("cgroup v2 freezer").present && !freezer("cgroup v1 freezer").present)
    freezer("cgroup v2 freezer").required = true;
  return features;
}

std::vector<std::string> missing_features(const std::vector<Feature>& features) {
  std::vector<std::string> names;
  for (const auto& feature : features)
    if (feature.required && !feature.present) names.push_back(feature.name);
  return names;
}

}  // namespace godwit::runtime
