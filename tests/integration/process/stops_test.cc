// Programs that do not stop when they are asked to, or that notice that they were: vfork(2) for long and all
// the time, system calls that the kernel does not restart, and what is left in them afterwards.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/userfaultfd.h>
#include <spawn.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/uio.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <filesystem>
#include <sstream>
#include <thread>

#include "base/clock.h"
#include "base/fd.h"
#include "runtime/container/freezer.h"
#include "runtime/kernel/features.h"
#include "runtime/kernel/thread_state.h"
#include "runtime/memory/address_space.h"
#include "runtime/memory/trackers.h"
#include "runtime/process/capture.h"
#include "runtime/process/leftovers.h"
#include "tests/integration/process/victim.h"

namespace godwit::runtime::test {
namespace {

void expect_ok(const Result<void>& result) {
  EXPECT_TRUE(result.has_value()) << result.error().to_string();
}

void close_all() {
  ::setsid();
  ::close_range(0, ~0U, 0);
  for (int i = 0; i < 3; ++i) ::open("/dev/null", O_RDWR);
}

// A cgroup of one victim with a freezer of the given version, driven by hand.
class Cgroup {
 public:
  Cgroup(int version, pid_t pid, bool with_child) : version_(version) {
    const std::string children_path =
        "/proc/" + std::to_string(pid) + "/task/" + std::to_string(pid) + "/children";
    const std::string child = with_child ? read_file(children_path).value_or(std::string()) : std::string();
    const std::vector<std::string> roots =
        version == 1 ? std::vector<std::string>{"/sys/fs/cgroup/freezer"}
                     : std::vector<std::string>{"/sys/fs/cgroup/unified", "/sys/fs/cgroup"};
    for (const std::string& root : roots) {
      const std::string path = root + "/godwit-stops-" + std::to_string(pid);
      if (::mkdir(path.c_str(), 0755) != 0) continue;
      path_ = path;
      const std::string procs = path + "/cgroup.procs";
      if (::access(state_path().c_str(), W_OK) == 0 && write(procs, std::to_string(pid)) &&
          (child.empty() || write(procs, child)))
        return;
      ::rmdir(path.c_str());
      path_.clear();
    }
  }
  Cgroup(const Cgroup&) = delete;
  Cgroup& operator=(const Cgroup&) = delete;
  ~Cgroup() {
    if (path_.empty()) return;
    static_cast<void>(set(false));
    for (int i = 0; i < 2000 && ::rmdir(path_.c_str()) != 0; ++i) {
      for (const pid_t pid : pids().value_or(std::vector<pid_t>{})) ::kill(pid, SIGKILL);
      while (::waitpid(-1, nullptr, WNOHANG | __WALL) > 0) {
      }
      ::usleep(1000);
    }
  }
  [[nodiscard]] bool exists() const { return !path_.empty(); }
  Result<void> set(bool frozen) const {
    for (;;) {
      if (!write(state_path(), version_ == 2 ? (frozen ? "1" : "0") : (frozen ? "FROZEN" : "THAWED")))
        return fail("write", state_path());
      if (!frozen) return {};
      const auto state = read_file(version_ == 2 ? path_ + "/cgroup.events" : state_path());
      if (state.has_value() && state->find(version_ == 2 ? "frozen 1" : "FROZEN") != std::string::npos)
        return {};
      ::usleep(100);
    }
  }
  [[nodiscard]] Result<std::vector<pid_t>> pids() const {
    GODWIT_ASSIGN(const std::string text, read_file(path_ + "/cgroup.procs"));
    std::istringstream numbers(text);
    std::vector<pid_t> found;
    for (pid_t pid = 0; numbers >> pid;) found.push_back(pid);
    return found;
  }

 private:
  [[nodiscard]] std::string state_path() const {
    return path_ + (version_ == 2 ? "/cgroup.freeze" : "/freezer.state");
  }
  static bool write(const std::string& path, const std::string& text) {
    return write_file(path, text).has_value();
  }
  int version_;
  std::string path_;
};

// 0: no freezer, ptrace alone; else a cgroup's of that version.
class Stops : public testing::TestWithParam<int> {
 protected:
  void open(const Victim& victim, bool with_child = false) {
    CaptureOptions options;
    options.init_pid = victim.pid();
    if (GetParam() != 0) {
      cgroup_ = std::make_unique<Cgroup>(GetParam(), victim.pid(), with_child);
      if (!cgroup_->exists()) GTEST_SKIP() << "no freezer of version " << GetParam();
      options.freeze_cgroup = [this] { return cgroup_->set(true); };
      options.thaw_cgroup = [this] { return cgroup_->set(false); };
      options.list_cgroup = [this] { return cgroup_->pids(); };
    }
    auto opened = Capture::open(std::move(options));
    ASSERT_TRUE(opened.has_value()) << opened.error().to_string();
    capture_ = *std::move(opened);
  }
  std::unique_ptr<Cgroup> cgroup_;
  std::unique_ptr<Capture> capture_;
};
INSTANTIATE_TEST_SUITE_P(Freezers, Stops, testing::Values(0, 1, 2));

// Threads of the process that a tracer has stopped.
int stopped_threads(pid_t pid) {
  int count = 0;
  std::error_code error;
  for (const auto& entry :
       std::filesystem::directory_iterator("/proc/" + std::to_string(pid) + "/task", error))
    if (thread_state(std::stoi(entry.path().filename())) == 't') ++count;
  return count;
}

// A child that stays in its parent's memory for as long as `shared.asked` is 0.
void stay_in_vfork(Shared& shared) {
  const pid_t child = ::vfork();
  if (child != 0) return;
  while (shared.asked == 0) {
    const timespec pause{.tv_sec = 0, .tv_nsec = 1'000'000};
    ::syscall(SYS_nanosleep, &pause, nullptr);
  }
  ::syscall(SYS_exit, 0);
}

void leader_in_vfork(Shared& shared) {
  close_all();
  std::thread([&shared] {
    for (;;) {
      ++shared.rounds;
      ::usleep(200);
    }
  }).detach();
  std::thread([&shared] {
    while (!waits_in_vfork(::getpid())) ::usleep(500);
    shared.ready = 1;
  }).detach();
  stay_in_vfork(shared);
  while (::waitpid(-1, nullptr, 0) > 0) {
  }
  for (;;) {
    ++shared.value[0];
    ::usleep(200);
  }
}

TEST_P(Stops, AThreadInVforkPostponesTheFreezeAndIsNamed) {
  Victim victim(leader_in_vfork);
  ASSERT_TRUE(victim.wait_ready());
  open(victim, true);
  if (IsSkipped()) return;
  int visits = 0;
  const auto visit = [&](const CapturedProcess&, Puppet&) {
    ++visits;
    return Result<void>();
  };
  for (int i = 0; i < 5; ++i) {
    const auto live = capture_->snapshot_live();
    ASSERT_TRUE(live.has_value()) << live.error().to_string();
    expect_ok(capture_->visit_new_processes(visit));
    EXPECT_EQ(visits, 0) << "its memory is in two hands";
    const auto frozen = capture_->freeze();
    ASSERT_FALSE(frozen.has_value());
    EXPECT_EQ(frozen.error().code, EAGAIN) << frozen.error().to_string();
    EXPECT_NE(frozen.error().to_string().find("vfork"), std::string::npos) << frozen.error().to_string();
    EXPECT_NE(frozen.error().to_string().find("(stops_test)"), std::string::npos)
        << frozen.error().to_string();
    EXPECT_TRUE(victim.runs()) << "it stands still";
    EXPECT_EQ(stopped_threads(victim.pid()), 0);
  }
  victim.shared().asked = 1;
  ASSERT_TRUE(victim.wait_for(victim.shared().value[0], 2)) << "the leader did not go on";
  const auto frozen = capture_->freeze();
  ASSERT_TRUE(frozen.has_value()) << frozen.error().to_string();
  expect_ok(capture_->visit_new_processes(visit));
  EXPECT_EQ(visits, 1);
  expect_ok(capture_->thaw());
  ASSERT_TRUE(victim.wait_for(victim.shared().value[0], victim.shared().value[0] + 2));
}

// One whose child nobody shows us, so that the wait for its stop is all that tells.
TEST_P(Stops, AThreadThatStopsLateIsLetGoThen) {
  if (GetParam() == 0) GTEST_SKIP() << "without a cgroup its child is seen";
  Victim victim(leader_in_vfork);
  ASSERT_TRUE(victim.wait_ready());
  open(victim, false);
  if (IsSkipped()) return;
  for (int i = 0; i < 2; ++i) {
    const auto frozen = capture_->freeze();
    ASSERT_FALSE(frozen.has_value());
    EXPECT_EQ(frozen.error().code, EAGAIN) << frozen.error().to_string();
    EXPECT_TRUE(victim.runs()) << "it stands still";
    EXPECT_EQ(stopped_threads(victim.pid()), 0);
    EXPECT_FALSE(capture_->thaw().has_value()) << "one is still on its way to a stop";
    ASSERT_TRUE(capture_->snapshot_live().has_value());
    expect_ok(capture_->visit_new_processes([](const CapturedProcess&, Puppet&) { return Result<void>(); }));
  }
  victim.shared().asked = 1;
  while (!capture_->thaw().has_value()) ::usleep(1000);
  EXPECT_TRUE(victim.wait_for(victim.shared().value[0], 2)) << "the leader did not go on";
  expect_ok(capture_->freeze());
  expect_ok(capture_->thaw());
  EXPECT_TRUE(victim.wait_for(victim.shared().value[0], victim.shared().value[0] + 2));
}

void spawn_all_the_time(Shared& shared) {
  close_all();
  for (int i = 0; i < 4; ++i)
    std::thread([&shared] {
      char program[] = "/bin/true";
      char* arguments[] = {program, nullptr};
      for (;;) {
        pid_t child = 0;
        if (::posix_spawn(&child, program, nullptr, nullptr, arguments, environ) != 0) ++shared.failures;
        if (::waitpid(child, nullptr, 0) != child) ++shared.failures;
        ++shared.rounds;
      }
    }).detach();
  shared.ready = 1;
  for (;;) ::pause();
}

// Without a freezer such a program cannot be caught: its children come faster than one looks.
TEST_P(Stops, AProgramThatSpawnsAllTheTimeIsCaughtInTheEnd) {
  Victim victim(spawn_all_the_time);
  ASSERT_TRUE(victim.wait_ready());
  open(victim);
  if (IsSkipped()) return;
  int caught = 0, postponed = 0;
  const auto ignore = [](const CapturedProcess&, Puppet&) { return Result<void>(); };
  for (int i = 0; i < 400 && (caught < 5 || postponed < 1); ++i) {
    const auto live = capture_->snapshot_live();
    ASSERT_TRUE(live.has_value()) << live.error().to_string();
    expect_ok(capture_->visit_new_processes(ignore));
    const auto frozen = capture_->freeze();
    if (frozen.has_value()) {
      ++caught;
      const uint64_t rounds = victim.shared().rounds;
      ::usleep(2000);
      EXPECT_EQ(victim.shared().rounds, rounds) << "somebody runs";
    } else {
      ++postponed;
      ASSERT_TRUE(frozen.error().code == EAGAIN || GetParam() == 0) << frozen.error().to_string();
    }
    const auto thawed = capture_->thaw();
    ASSERT_TRUE(thawed.has_value() || GetParam() == 0) << thawed.error().to_string();
    ASSERT_TRUE(victim.runs()) << "it stands still";
  }
  if (GetParam() != 0) {
    EXPECT_GE(caught, 5) << "of " << caught + postponed;
  }
  std::printf("caught %d times, postponed %d times\n", caught, postponed);
  EXPECT_EQ(victim.shared().failures, 0U);
}

// The leader sleeps in the kernel, and only its end will wake it, until `shared.asked`: it reads a page by
// process_vm_readv(2) that a userfaultfd of its own does not give yet.
void leader_in_the_kernel(Shared& shared) {
  close_all();
  const int faults = static_cast<int>(::syscall(SYS_userfaultfd, O_CLOEXEC));
  uffdio_api api{.api = UFFD_API, .features = 0, .ioctls = 0};
  void* page = ::mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  const uint64_t start = std::bit_cast<uint64_t>(page);
  uffdio_register area{
      .range = {.start = start, .len = 4096}, .mode = UFFDIO_REGISTER_MODE_MISSING, .ioctls = 0};
  if (::ioctl(faults, UFFDIO_API, &api) != 0 || ::ioctl(faults, UFFDIO_REGISTER, &area) != 0) ::_exit(1);
  std::thread([&shared, faults, start] {
    for (; shared.asked == 0; ++shared.rounds) ::usleep(200);
    uffdio_zeropage zero{.range = {.start = start, .len = 4096}, .mode = 0, .zeropage = 0};
    ::ioctl(faults, UFFDIO_ZEROPAGE, &zero);
  }).detach();
  std::thread([&shared] {
    while (thread_state(::getpid()) != 'D') ::usleep(500);
    shared.ready = 1;
  }).detach();
  char byte = 1;
  const iovec local{.iov_base = &byte, .iov_len = 1}, remote{.iov_base = page, .iov_len = 1};
  ::process_vm_readv(::getpid(), &local, 1, &remote, 1, 0);
  for (;; ::usleep(200)) ++shared.value[0];
}

TEST_P(Stops, AThreadThatDoesNotLeaveTheKernelIsNamedAndHarmsNobody) {
  Victim victim(leader_in_the_kernel);
  ASSERT_TRUE(victim.wait_ready());
  open(victim);
  if (IsSkipped()) return;
  const auto names_it = [&](const Result<void>& result) {
    ASSERT_FALSE(result.has_value());
    EXPECT_EQ(result.error().code, EAGAIN) << result.error().to_string();
    EXPECT_NE(result.error().to_string().find("(stops_test)"), std::string::npos)
        << result.error().to_string();
    EXPECT_NE(result.error().hint.find("handle_userfault"), std::string::npos) << result.error().to_string();
    EXPECT_TRUE(victim.runs()) << "it stands still";
  };
  int visits = 0;
  ASSERT_TRUE(capture_->snapshot_live().has_value());
  expect_ok(capture_->visit_new_processes([&](const CapturedProcess&, Puppet&) {
    ++visits;
    return Result<void>();
  }));
  EXPECT_EQ(visits, 0);
  EXPECT_TRUE(victim.runs()) << "it stands still";
  if (GetParam() == 0) {
    names_it(capture_->freeze());
  } else {
    auto freezer = Freezer::open(victim.pid());
    ASSERT_TRUE(freezer.has_value()) << freezer.error().to_string();
    if (freezer->version2() == (GetParam() == 2)) names_it(freezer->freeze());
  }
  victim.shared().asked = 1;
  while (!capture_->thaw().has_value()) ::usleep(1000);
  EXPECT_TRUE(victim.wait_for(victim.shared().value[0], 5)) << "the leader did not go on";
}

// What a tracer asks of a thread in vfork(2) is taken back when the tracer ends.
TEST(Puppets, TheEndOfTheTracerTakesBackARequestToStop) {
  Victim victim(leader_in_vfork);
  ASSERT_TRUE(victim.wait_ready());
  std::thread([&] {
    auto puppet = Puppet::seize(victim.pid());
    ASSERT_TRUE(puppet.has_value()) << puppet.error().to_string();
    const auto stopped = (*puppet)->wait_stopped(Deadline::in_ms(20));
    ASSERT_FALSE(stopped.has_value());
    EXPECT_EQ(stopped.error().code, EAGAIN);
    EXPECT_NE(stopped.error().hint.find("vfork"), std::string::npos) << stopped.error().hint;
    EXPECT_EQ((*puppet)->release().error().code, EAGAIN);
    (*puppet)->abandon();
  }).join();
  victim.shared().asked = 1;
  EXPECT_TRUE(victim.wait_for(victim.shared().value[0], 5)) << "it has stopped for nobody";
}

TEST(Puppets, OneThatStopsLateCanBeReleasedThen) {
  Victim victim(leader_in_vfork);
  ASSERT_TRUE(victim.wait_ready());
  auto puppet = Puppet::seize(victim.pid());
  ASSERT_TRUE(puppet.has_value()) << puppet.error().to_string();
  EXPECT_FALSE((*puppet)->wait_stopped(Deadline::in_ms(20)).has_value());
  victim.shared().asked = 1;
  expect_ok((*puppet)->wait_stopped());
  expect_ok((*puppet)->release());
  EXPECT_TRUE(victim.wait_for(victim.shared().value[0], 5));
}

// Mappings as /proc shows them, with their flags: userfaultfd's are among them.
std::string mappings_of(pid_t pid) {
  std::string all;
  std::istringstream lines(read_file("/proc/" + std::to_string(pid) + "/smaps").value_or(std::string()));
  for (std::string line; std::getline(lines, line);)
    if (line.starts_with("VmFlags") || line.find('-') < 13) all += line + "\n";
  return all;
}

void sleep_with_memory(Shared& shared) {
  close_all();
  const size_t size = size_t{4} << 20;
  void* memory =
      ::mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
  if (memory == MAP_FAILED) ::_exit(1);
  shared.ready = 1;
  for (;;) ::pause();
}

// Visits the process as a migration does.
Result<std::unique_ptr<DirtyTracker>> track(Capture& capture, pid_t pid) {
  std::unique_ptr<DirtyTracker> tracker;
  GODWIT_TRY(capture.snapshot_live());
  GODWIT_TRY(capture.visit_new_processes([&](const CapturedProcess& process, Puppet& puppet) -> Result<void> {
    if (!tracking_abilities().uffd_async) return {};
    GODWIT_ASSIGN(tracker, make_uffd_async_tracker(process.host_pid, puppet));
    return {};
  }));
  if (tracker != nullptr) {
    GODWIT_ASSIGN(auto vmas, read_maps(pid));
    std::erase_if(vmas, [](const Vma& vma) { return !vma.writable || vma.shared; });
    GODWIT_TRY(tracker->follow(vmas));
  }
  return tracker;
}

TEST_P(Stops, ACaptureThatEndsLeavesNothingInTheProcess) {
  Victim victim(sleep_with_memory);
  ASSERT_TRUE(victim.wait_ready());
  const std::string before = mappings_of(victim.pid());
  for (const bool frozen : {false, true}) {
    open(victim);
    if (IsSkipped()) return;
    {
      auto tracker = track(*capture_, victim.pid());
      ASSERT_TRUE(tracker.has_value()) << tracker.error().to_string();
      EXPECT_EQ(find_scratches(victim.pid()).value().size(), 1U);
      EXPECT_NE(mappings_of(victim.pid()), before);
      if (frozen) {
        expect_ok(capture_->freeze());
        ASSERT_TRUE(capture_->snapshot_frozen().has_value());
        expect_ok(capture_->thaw());
      }
      if (*tracker != nullptr) expect_ok((*tracker)->stop());
    }
    capture_.reset();
    EXPECT_TRUE(mappings_of(victim.pid()) == before) << mappings_of(victim.pid());
    if (GetParam() != 0) return;  // the end of its cgroup is the victim's
  }
}

TEST(Leftovers, OfAKilledTracerAreRemoved) {
  Victim victim(sleep_with_memory);
  ASSERT_TRUE(victim.wait_ready());
  const std::string before = mappings_of(victim.pid());
  for (const bool frozen : {false, true}) {
    int ready[2];
    ASSERT_EQ(::pipe(ready), 0);
    const pid_t tracer = ::fork();
    if (tracer == 0) {
      CaptureOptions options;
      options.init_pid = victim.pid();
      auto capture = Capture::open(std::move(options));
      if (!capture.has_value()) ::_exit(1);
      auto tracker = track(**capture, victim.pid());
      const bool done =
          tracker.has_value() &&
          (!frozen || ((*capture)->freeze().has_value() && (*capture)->snapshot_frozen().has_value()));
      const char word = done ? 'y' : 'n';
      if (::write(ready[1], &word, 1) != 1) ::_exit(1);
      for (;;) ::pause();
    }
    ::close(ready[1]);
    char word = 0;
    EXPECT_EQ(::read(ready[0], &word, 1), 1);
    ::close(ready[0]);
    EXPECT_EQ(word, 'y');
    ::kill(tracer, SIGKILL);
    ::waitpid(tracer, nullptr, 0);
    EXPECT_EQ(stopped_threads(victim.pid()), 0);
    EXPECT_EQ(find_scratches(victim.pid()).value().size(), 1U);
    const pid_t pids[] = {victim.pid()};
    expect_ok(remove_leftovers(pids));
    EXPECT_TRUE(find_scratches(victim.pid()).value().empty());
    EXPECT_TRUE(mappings_of(victim.pid()) == before) << mappings_of(victim.pid());
    EXPECT_EQ(stopped_threads(victim.pid()), 0);
  }
}

TEST(Leftovers, AreNotSoughtInWhatHasEndedAndNotTakenForWhatTheyAreNot) {
  Victim victim([](Shared& shared) {
    close_all();
    void* code =
        ::mmap(nullptr, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    // As a scratch has it, but for another place.
    const struct {
      char text[16] = "godwit scratch\n";
      uint64_t start = 4096, size = 0x41000;
    } mark;
    std::memcpy(static_cast<char*>(code) + 4096 - sizeof mark, &mark, sizeof mark);
    ::mprotect(code, 4096, PROT_READ | PROT_EXEC);
    shared.ready = 1;
    for (;;) ::pause();
  });
  ASSERT_TRUE(victim.wait_ready());
  const std::string before = mappings_of(victim.pid());
  const pid_t pids[] = {1 << 22, victim.pid()};
  expect_ok(remove_leftovers(pids));
  EXPECT_TRUE(mappings_of(victim.pid()) == before) << mappings_of(victim.pid());
}

// Each waits for ever in a system call that the kernel ends with EINTR after a stop.
using Wait = long (*)(int socket);

struct WaitCase {
  const char* name;
  Wait wait;
};

const WaitCase kWaits[] = {
    {"recv",
     [](int socket) {
       char byte = 0;
       return static_cast<long>(::recv(socket, &byte, 1, 0));
     }},
    {"read",
     [](int socket) {
       char byte = 0;
       return static_cast<long>(::read(socket, &byte, 1));
     }},
    {"recvmsg",
     [](int socket) {
       char byte = 0;
       iovec part{.iov_base = &byte, .iov_len = 1};
       msghdr message{};
       message.msg_iov = &part;
       message.msg_iovlen = 1;
       return static_cast<long>(::recvmsg(socket, &message, 0));
     }},
    {"send",
     [](int socket) {
       static char bytes[4096];
       while (::send(socket, bytes, sizeof bytes, MSG_DONTWAIT) > 0) {
       }
       return static_cast<long>(::send(socket, bytes, sizeof bytes, 0));
     }},
    {"write",
     [](int socket) {
       static char bytes[4096];
       while (::send(socket, bytes, sizeof bytes, MSG_DONTWAIT) > 0) {
       }
       return static_cast<long>(::write(socket, bytes, sizeof bytes));
     }},
    {"accept",
     [](int) {
       const int listener = ::socket(AF_INET, SOCK_STREAM, 0);
       const timeval limit{.tv_sec = 100, .tv_usec = 0};
       ::setsockopt(listener, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
       return ::listen(listener, 1) == 0 ? static_cast<long>(::accept(listener, nullptr, nullptr)) : -1L;
     }},
    {"epoll_wait",
     [](int) {
       epoll_event event{};
       return static_cast<long>(::epoll_wait(::epoll_create1(0), &event, 1, 100'000));
     }},
    {"sigtimedwait",
     [](int) {
       sigset_t signals;
       ::sigemptyset(&signals);
       ::sigaddset(&signals, SIGUSR2);
       ::sigprocmask(SIG_BLOCK, &signals, nullptr);
       const timespec limit{.tv_sec = 100, .tv_nsec = 0};
       return static_cast<long>(::sigtimedwait(&signals, nullptr, &limit));
     }},
};

std::atomic<uint64_t>* handled = nullptr;

[[noreturn]] void wait_in(Shared& shared, Wait wait) {
  close_all();
  handled = &shared.value[3];
  struct sigaction action {};
  action.sa_handler = [](int) { ++*handled; };  // without SA_RESTART
  ::sigaction(SIGUSR1, &action, nullptr);
  int ends[2];
  if (::socketpair(AF_UNIX, SOCK_STREAM, 0, ends) != 0) ::_exit(1);
  const timeval limit{.tv_sec = 100, .tv_usec = 0};
  ::setsockopt(ends[0], SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
  ::setsockopt(ends[0], SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
  shared.ready = 1;
  for (;;) {
    if (wait(ends[0]) < 0) shared.value[1] = static_cast<uint64_t>(errno);
    ++shared.value[0];
  }
}

std::string call_of(pid_t pid) {
  const auto text = read_file("/proc/" + std::to_string(pid) + "/syscall").value_or(std::string());
  return text.substr(0, text.find_first_of(" \n"));
}

// The number of the call that it sleeps in, once it sleeps there for good.
std::string settled_call(pid_t pid) {
  std::string call = "running";
  for (int same = 0; same < 20;) {
    const std::string now = call_of(pid);
    same = now == call && now != "running" && now != "-1" ? same + 1 : 0;
    call = now;
    ::usleep(1000);
  }
  return call;
}

class Interruptions : public testing::TestWithParam<WaitCase> {};
INSTANTIATE_TEST_SUITE_P(Calls, Interruptions, testing::ValuesIn(kWaits),
                         [](const auto& info) { return std::string(info.param.name); });

TEST_P(Interruptions, AreNotNoticed) {
  Victim victim([](Shared& shared) { wait_in(shared, GetParam().wait); });
  ASSERT_TRUE(victim.wait_ready());
  const std::string call = settled_call(victim.pid());
  CaptureOptions options;
  options.init_pid = victim.pid();
  auto capture = Capture::open(std::move(options));
  ASSERT_TRUE(capture.has_value()) << capture.error().to_string();
  ASSERT_TRUE((*capture)->snapshot_live().has_value());
  expect_ok((*capture)->visit_new_processes([](const auto&, Puppet&) { return Result<void>(); }));
  EXPECT_EQ(settled_call(victim.pid()), call);
  for (int i = 0; i < 3; ++i) {  // cutovers that fail
    expect_ok((*capture)->freeze());
    const auto snapshot = (*capture)->snapshot_frozen();
    ASSERT_TRUE(snapshot.has_value()) << snapshot.error().to_string();
    expect_ok((*capture)->thaw());
    EXPECT_EQ(settled_call(victim.pid()), call);
  }
  capture->reset();
  EXPECT_EQ(settled_call(victim.pid()), call);
  EXPECT_EQ(victim.shared().value[0], 0U)
      << "it returned, with " << std::strerror(static_cast<int>(victim.shared().value[1]));
}

TEST(Interruption, ByASignalIsToldToTheProgram) {
  Victim victim([](Shared& shared) { wait_in(shared, kWaits[0].wait); });
  ASSERT_TRUE(victim.wait_ready());
  const std::string call = settled_call(victim.pid());
  CaptureOptions options;
  options.init_pid = victim.pid();
  auto capture = Capture::open(std::move(options));
  ASSERT_TRUE(capture.has_value()) << capture.error().to_string();
  expect_ok((*capture)->freeze());
  ::kill(victim.pid(), SIGUSR1);
  expect_ok((*capture)->thaw());
  ASSERT_TRUE(victim.wait_for(victim.shared().value[0], 1)) << "the call was made again";
  EXPECT_EQ(victim.shared().value[1], static_cast<uint64_t>(EINTR));
  EXPECT_EQ(victim.shared().value[3], 1U);
  EXPECT_EQ(settled_call(victim.pid()), call);
}

}  // namespace
}  // namespace godwit::runtime::test
