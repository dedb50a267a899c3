// A process with one descriptor of every kind; another one gets the same table and checks it from within.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/io_uring.h>
#include <linux/netlink.h>
#include <netinet/in.h>
#include <poll.h>
#include <sched.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/inotify.h>
#include <sys/mman.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>

#include <algorithm>
#include <cstring>

#include "runtime/process/descriptors/target.h"
#include "tests/integration/process/descriptors_rig.h"

namespace godwit::runtime::test {
namespace {

std::string scratch_path() {
  return "/var/tmp/godwit-descriptors-" + std::to_string(::getpid());
}

int put(int fd, int number, int flags = 0) {
  if (fd != number) {
    ::dup3(fd, number, flags);
    ::close(fd);
  }
  return number;
}

// Fixed numbers, so that the checker knows where to look.
void open_everything(const std::string& path) {
  ::close_range(3, ~0U, 0);
  put(::open(path.c_str(), O_RDWR | O_APPEND), 10);
  ::lseek(10, 3, SEEK_SET);
  ::dup3(10, 900, O_CLOEXEC);
  int ends[2];
  ::pipe(ends);
  put(ends[1], 12);
  put(ends[0], 11);
  ::write(12, "unread", 6);
  put(::eventfd(5, EFD_SEMAPHORE), 13);
  put(::epoll_create1(EPOLL_CLOEXEC), 14, O_CLOEXEC);
  epoll_event event{};
  event.events = EPOLLIN;
  event.data.u64 = 0x1122334455667788;
  ::epoll_ctl(14, EPOLL_CTL_ADD, 11, &event);
  put(::timerfd_create(CLOCK_MONOTONIC, 0), 15);
  const itimerspec hour = {.it_interval = {7, 0}, .it_value = {3600, 0}};
  ::timerfd_settime(15, 0, &hour, nullptr);
  sigset_t mask;
  ::sigemptyset(&mask);
  ::sigaddset(&mask, SIGUSR1);
  put(::signalfd(-1, &mask, 0), 16);
  put(::memfd_create("stuff", MFD_ALLOW_SEALING), 17);
  ::ftruncate(17, 8192);
  ::lseek(17, 100, SEEK_SET);
  ::socketpair(AF_UNIX, SOCK_STREAM, 0, ends);
  put(ends[0], 18);
  put(ends[1], 19);
  ::write(19, "hello", 5);
  put(::open("/dev/null", O_WRONLY), 20);
  put(::socket(AF_INET, SOCK_STREAM, 0), 21);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(7777);
  if (::bind(21, reinterpret_cast<sockaddr*>(&address), sizeof address) != 0) ::_exit(1);
  ::listen(21, 33);
  put(::socket(AF_INET, SOCK_DGRAM, 0), 22);
  if (::bind(22, reinterpret_cast<sockaddr*>(&address), sizeof address) != 0) ::_exit(1);
  put(::open("/var/tmp", O_RDONLY | O_DIRECTORY), 23);
}

int count_open() {
  int open = 0;
  for (int i = 0; i < 2000; ++i) open += ::fcntl(i, F_GETFD) >= 0 ? 1 : 0;
  return open;
}

// Number of the first check that fails, 0 if all hold.
int check_everything() {
  char buffer[64] = {};
  if (count_open() != 18) return 1;
  if (::lseek(10, 0, SEEK_CUR) != 3 || (::fcntl(10, F_GETFL) & O_APPEND) == 0) return 2;
  if (::syscall(SYS_kcmp, ::getpid(), ::getpid(), 0, 10, 900) != 0) return 3;
  if (::fcntl(900, F_GETFD) != FD_CLOEXEC || ::fcntl(10, F_GETFD) != 0) return 4;
  epoll_event event{};
  if (::epoll_wait(14, &event, 1, 0) != 1 || event.data.u64 != 0x1122334455667788) return 5;
  if (::read(11, buffer, sizeof buffer) != 6 || std::memcmp(buffer, "unread", 6) != 0) return 6;
  if (::epoll_wait(14, &event, 1, 0) != 0) return 7;
  uint64_t one = 0;
  for (int i = 0; i < 5; ++i)
    if (::read(13, &one, sizeof one) != sizeof one || one != 1) return 8;
  itimerspec left{};
  ::timerfd_gettime(15, &left);
  if (left.it_interval.tv_sec != 7 || left.it_value.tv_sec < 3500 || left.it_value.tv_sec > 3600) return 9;
  ::raise(SIGUSR1);
  signalfd_siginfo told{};
  if (::read(16, &told, sizeof told) != sizeof told || told.ssi_signo != SIGUSR1) return 10;
  struct stat status {};
  if (::fstat(17, &status) != 0 || status.st_size != 8192 || ::lseek(17, 0, SEEK_CUR) != 100) return 11;
  if (::read(18, buffer, sizeof buffer) != 5 || std::memcmp(buffer, "hello", 5) != 0) return 12;
  if (::write(18, "x", 1) != 1 || ::read(19, buffer, 1) != 1) return 13;
  if (::write(20, "x", 1) != 1) return 14;
  int listening = 0;
  socklen_t length = sizeof listening;
  ::getsockopt(21, SOL_SOCKET, SO_ACCEPTCONN, &listening, &length);
  if (listening != 1) return 15;
  sockaddr_in address{};
  length = sizeof address;
  if (::getsockname(22, reinterpret_cast<sockaddr*>(&address), &length) != 0 ||
      address.sin_port != htons(7777))
    return 16;
  ::close(12);
  if (::read(11, buffer, 1) != 0) return 17;  // end of file: nobody else holds the writing end
  ::close(19);
  if (::read(18, buffer, 1) != 0) return 18;
  return 0;
}

void block_user_signal() {
  sigset_t mask;
  ::sigemptyset(&mask);
  ::sigaddset(&mask, SIGUSR1);
  ::sigprocmask(SIG_BLOCK, &mask, nullptr);
}

class Table : public ::testing::Test {
 protected:
  void SetUp() override { ASSERT_TRUE(write_file(path_, "0123456789")); }
  void TearDown() override {
    ::unlink(path_.c_str());
    ::unlink(log_.c_str());
  }
  std::string path_ = scratch_path();
  std::string log_ = scratch_path() + ".log";
};

TEST_F(Table, EveryKindArrives) {
  Fd log(::open(log_.c_str(), O_WRONLY | O_CREAT | O_APPEND, 0600));
  Victim source([&](Shared& shared) {
    ::unshare(CLONE_NEWNET);
    put(::dup(log.get()), 0);
    ::dup2(0, 1);
    ::dup2(0, 2);
    open_everything(path_);
    shared.ready = 1;
    for (;;) ::pause();
  });
  ASSERT_TRUE(source.wait_ready());
  auto [ours, theirs] = DescriptorRig::make_channel();
  Victim replica([&, channel = theirs.get()](Shared& shared) {
    block_user_signal();
    ::unshare(CLONE_NEWNET);
    ::fcntl(channel, F_SETFD, 0);
    shared.ready = 1;
    while (shared.asked.load() == 0) ::sched_yield();
    shared.value[0] = static_cast<uint64_t>(check_everything());
    shared.ready = 2;
    for (;;) ::pause();
  });
  ASSERT_TRUE(replica.wait_ready());
  const auto at_source = DescriptorRig::process(source.pid());

  auto capture = DescriptorCapture::open(source.pid(), log_);
  ASSERT_TRUE(capture) << capture.error().to_string();
  std::vector<Refusal> refusals;
  ASSERT_TRUE((*capture)->preflight({at_source}, refusals));
  for (const Refusal& one : refusals) ADD_FAILURE() << one.object << ": " << one.reason;
  auto rebuild = DescriptorRebuild::open(replica.pid(), std::move(ours), theirs.get(), log_);
  ASSERT_TRUE(rebuild) << rebuild.error().to_string();
  auto live = DescriptorRig::empty_snapshot();
  auto done = DescriptorRig::capture_live(**capture, at_source, live);
  ASSERT_TRUE(done) << done.error().to_string();
  done = (*rebuild)->prepare(live);
  ASSERT_TRUE(done) << done.error().to_string();

  auto held = DescriptorRig::hold(source.pid());
  ASSERT_TRUE(held) << held.error().to_string();
  auto receiver = DescriptorRig::hold(replica.pid());
  ASSERT_TRUE(receiver) << receiver.error().to_string();
  auto frozen = DescriptorRig::empty_snapshot();
  frozen.set_frozen(true);
  const int64_t start = monotonic_us();
  done = DescriptorRig::capture_frozen(**capture, {.process = at_source, .leader = held->get()}, frozen);
  const int64_t captured = monotonic_us();
  ASSERT_TRUE(done) << done.error().to_string();
  done = (*rebuild)->complete(
      frozen, {{.container_pid = kPidInSnapshot, .host_pid = replica.pid(), .leader = receiver->get()}});
  const int64_t completed = monotonic_us();
  ASSERT_TRUE(done) << done.error().to_string();
  std::printf("18 descriptors: capture_frozen %ld us, complete %ld us\n", captured - start,
              completed - captured);
  ASSERT_TRUE((*rebuild)->finish().empty());
  theirs.reset();
  ASSERT_TRUE((*receiver)->drop_scratch());
  ASSERT_TRUE((*receiver)->release());
  ASSERT_TRUE((*held)->drop_scratch());
  ASSERT_TRUE((*held)->release());
  ASSERT_TRUE((*capture)->undo());
  replica.shared().asked = 1;
  ASSERT_TRUE(replica.wait_ready(2));
  EXPECT_EQ(replica.shared().value[0].load(), 0U) << "number of the check that failed";
}

// To open one that nobody writes to would be to wait for ever.
TEST_F(Table, ANamedPipeInTheFilesPlaceIsRefused) {
  ASSERT_EQ(::unlink(path_.c_str()), 0);
  ASSERT_EQ(::mkfifo(path_.c_str(), 0600), 0);
  const Fd root(::open("/", O_PATH | O_DIRECTORY | O_CLOEXEC));
  model::RegularFile file;
  file.set_path(path_);
  const auto as_file = make_file(root.get(), O_RDONLY, file);
  ASSERT_FALSE(as_file);
  EXPECT_NE(as_file.error().to_string().find(path_), std::string::npos);
  EXPECT_NE(as_file.error().to_string().find("another kind of file"), std::string::npos);
  model::DeviceNode device;
  device.set_path(path_);
  device.set_major(1);
  device.set_minor(3);
  const auto as_device = make_device(root.get(), O_WRONLY, device);
  ASSERT_FALSE(as_device);
  EXPECT_NE(as_device.error().to_string().find("another device"), std::string::npos);
}

TEST_F(Table, WhatCannotMoveIsNamed) {
  const std::string deleted = path_ + ".deleted";
  Victim source([&](Shared& shared) {
    ::close_range(0, ~0U, 0);
    io_uring_params parameters{};
    put(static_cast<int>(::syscall(SYS_io_uring_setup, 4, &parameters)), 10);
    put(::inotify_init(), 11);
    put(::open("/dev/ptmx", O_RDWR | O_NOCTTY), 12);
    put(::open(deleted.c_str(), O_RDWR | O_CREAT, 0600), 13);
    ::unlink(deleted.c_str());
    put(::socket(AF_NETLINK, SOCK_RAW, NETLINK_ROUTE), 14);
    put(static_cast<int>(::syscall(SYS_pidfd_open, ::getpid(), 0)), 15);
    put(::open("/proc/self/ns/net", O_RDONLY), 16);
    put(::socket(AF_INET, SOCK_RAW, IPPROTO_ICMP), 17);
    put(::open("/dev/shm", O_TMPFILE | O_RDWR, 0600), 18);
    put(::open(path_.c_str(), O_PATH), 19);
    put(::open(path_.c_str(), O_RDONLY), 20);  // the only one that can move
    shared.ready = 1;
    for (;;) ::pause();
  });
  ASSERT_TRUE(source.wait_ready());
  auto capture = DescriptorCapture::open(source.pid(), "");
  ASSERT_TRUE(capture) << capture.error().to_string();
  std::vector<Refusal> refusals;
  const auto done = (*capture)->preflight({DescriptorRig::process(source.pid())}, refusals);
  ASSERT_TRUE(done) << done.error().to_string();
  const auto reason = [&](int number) -> std::string {
    for (const Refusal& one : refusals)
      if (one.object == "fd " + std::to_string(number)) return one.reason;
    return "";
  };
  const std::pair<int, const char*> expected[] = {
      {10, "io_uring"}, {11, "inotify"}, {12, "terminal"}, {13, "deleted"}, {14, "netlink"},
      {15, "pidfd"},    {16, "net:["},   {17, "raw"},      {18, "deleted"}, {19, "O_PATH"},
  };
  for (const auto& [number, word] : expected)
    EXPECT_NE(reason(number).find(word), std::string::npos)
        << "fd " << number << ": '" << reason(number) << "'";
  EXPECT_EQ(reason(20), "");
}

}  // namespace
}  // namespace godwit::runtime::test
