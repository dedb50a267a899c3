// Unix sockets with names: listeners, accepted connections and datagram sockets of one process, taken over by
// another one on the same file system.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sched.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstddef>
#include <cstring>
#include <string>

#include "runtime/process/heal.h"
#include "tests/integration/process/descriptors_rig.h"

namespace godwit::runtime::test {
namespace {

constexpr uid_t kOwner = 1234;

struct Name {
  sockaddr_un value{};
  socklen_t length = 0;
  explicit Name(const std::string& name) {
    value.sun_family = AF_UNIX;
    std::memcpy(value.sun_path, name.data(), name.size());
    length = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + name.size());
  }
  [[nodiscard]] const sockaddr* get() const { return reinterpret_cast<const sockaddr*>(&value); }
};

struct Names {
  std::string directory = "/var/tmp/godwit-unix-" + std::to_string(::getpid());
  std::string stream = directory + "/stream.sock";
  std::string datagram = directory + "/datagram.sock";
  std::string relative = "relative.sock";
  std::string abstract = std::string(1, '\0') + "godwit-unix";
};

int put(int fd, int number) {
  ::dup2(fd, number);
  ::close(fd);
  return number;
}

int open_bound(int type, const std::string& name, int number) {
  const Name address(name);
  put(::socket(AF_UNIX, type, 0), number);
  return ::bind(number, address.get(), address.length);
}

int open_connected(int type, const std::string& name, int number) {
  const Name address(name);
  put(::socket(AF_UNIX, type, 0), number);
  return ::connect(number, address.get(), address.length);
}

int listen_as(uid_t user, int number) {
  const int done = ::seteuid(user) | ::listen(number, 7);
  return done | ::seteuid(0);
}

bool open_everything(const Names& names) {
  ::close_range(3, ~0U, 0);
  int failed = ::chdir(names.directory.c_str());
  failed |= open_bound(SOCK_STREAM, names.stream, 10) | listen_as(kOwner, 10);
  failed |= ::chmod(names.stream.c_str(), 0640) | ::chown(names.stream.c_str(), kOwner, kOwner);
  failed |= open_bound(SOCK_SEQPACKET, names.abstract, 11) | ::listen(11, 5);
  failed |= open_bound(SOCK_DGRAM, names.datagram, 12);
  failed |= open_connected(SOCK_STREAM, names.stream, 13);
  put(::accept(10, nullptr, nullptr), 14);
  failed |= open_connected(SOCK_SEQPACKET, names.abstract, 15);
  put(::accept(11, nullptr, nullptr), 16);
  failed |= open_connected(SOCK_DGRAM, names.datagram, 17);
  failed |= open_bound(SOCK_STREAM, names.relative, 18) | ::listen(18, 3);
  failed |= open_connected(SOCK_STREAM, names.stream, 19);  // its accepted end has gone
  ::close(::accept(10, nullptr, nullptr));
  return failed == 0 && ::write(13, "unread", 6) == 6 && ::write(16, "two", 3) == 3 &&
         ::write(16, "parts", 5) == 5;
}

std::string name_of(int fd, bool peer = false) {
  sockaddr_un address{};
  socklen_t length = sizeof address;
  auto* raw = reinterpret_cast<sockaddr*>(&address);
  if ((peer ? ::getpeername(fd, raw, &length) : ::getsockname(fd, raw, &length)) != 0) return "error";
  std::string name(address.sun_path, length - offsetof(sockaddr_un, sun_path));
  if (!name.empty() && name.front() != '\0') name.resize(name.find('\0'));
  return name;
}

bool reads(int fd, std::string_view expected) {
  char buffer[64] = {};
  const ssize_t got = ::recv(fd, buffer, sizeof buffer, MSG_DONTWAIT);
  return got >= 0 && std::string_view(buffer, static_cast<size_t>(got)) == expected;
}

uid_t peer_of(int fd) {
  ucred peer{};
  socklen_t length = sizeof peer;
  ::getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &length);
  return peer.uid;
}

bool serves(int listener, int type, const std::string& name) {
  if (open_connected(type, name, 30) != 0) return false;
  put(::accept4(listener, nullptr, nullptr, SOCK_NONBLOCK), 31);
  const bool served = ::write(30, "x", 1) == 1 && reads(31, "x") && name_of(31) == name;
  ::close(30);
  ::close(31);
  return served;
}

// Number of the first check that fails, 0 if all hold.
int check_everything(const Names& names) {
  if (::chdir(names.directory.c_str()) != 0) return 1;
  if (name_of(10) != names.stream || name_of(11) != names.abstract) return 2;
  if (name_of(12) != names.datagram || name_of(18) != names.relative) return 3;
  if (name_of(14) != names.stream || name_of(13, true) != names.stream) return 4;
  if (name_of(16) != names.abstract || name_of(15, true) != names.abstract) return 5;
  if (!name_of(13).empty() || !name_of(15).empty()) return 6;
  if (!reads(14, "unread") || !reads(15, "two") || !reads(15, "parts")) return 7;
  if (::write(14, "back", 4) != 4 || !reads(13, "back")) return 8;
  if (peer_of(13) != kOwner || peer_of(14) != 0) return 9;
  if (!serves(10, SOCK_STREAM, names.stream)) return 10;
  if (!serves(11, SOCK_SEQPACKET, names.abstract)) return 11;
  if (!serves(18, SOCK_STREAM, names.relative)) return 12;
  if (::write(17, "datagram", 8) != 8 || !reads(12, "datagram")) return 13;
  if (name_of(17, true) != names.datagram) return 14;
  if (open_connected(SOCK_STREAM, names.stream, 30) != 0 || peer_of(30) != kOwner) return 15;
  if (!reads(19, "")) return 16;
  ::close(13);
  if (!reads(14, "")) return 17;
  return 0;
}

class UnixNames : public ::testing::Test {
 protected:
  void SetUp() override { ASSERT_EQ(::mkdir(names_.directory.c_str(), 0755), 0); }
  void TearDown() override {
    for (const char* name : {"stream.sock", "datagram.sock", "relative.sock"})
      ::unlink((names_.directory + "/" + name).c_str());
    ::rmdir(names_.directory.c_str());
  }
  [[nodiscard]] struct stat look() const {
    struct stat status {};
    EXPECT_EQ(::lstat(names_.stream.c_str(), &status), 0);
    return status;
  }
  Names names_;
};

TEST_F(UnixNames, ListenersAndTheirConnectionsArrive) {
  Victim source([&](Shared& shared) {
    ::unshare(CLONE_NEWNET);
    shared.ready = open_everything(names_) ? 1 : 0;
    for (;;) ::pause();
  });
  ASSERT_TRUE(source.wait_ready());
  auto [ours, theirs] = DescriptorRig::make_channel();
  Victim replica([&, channel = theirs.get()](Shared& shared) {
    ::unshare(CLONE_NEWNET);
    ::fcntl(channel, F_SETFD, 0);
    shared.ready = 1;
    while (shared.asked.load() == 0) ::sched_yield();
    shared.value[0] = static_cast<uint64_t>(check_everything(names_));
    shared.ready = 2;
    for (;;) ::pause();
  });
  ASSERT_TRUE(replica.wait_ready());
  const auto at_source = DescriptorRig::process(source.pid());
  auto capture = DescriptorCapture::open(source.pid(), "");
  ASSERT_TRUE(capture) << capture.error().to_string();
  std::vector<Refusal> refusals;
  ASSERT_TRUE((*capture)->preflight({at_source}, refusals));
  for (const Refusal& one : refusals)
    if (one.object != "fd 0" && one.object != "fd 1" && one.object != "fd 2")
      ADD_FAILURE() << one.object << ": " << one.reason;
  auto rebuild = DescriptorRebuild::open(replica.pid(), std::move(ours), theirs.get(), "");
  ASSERT_TRUE(rebuild) << rebuild.error().to_string();
  auto held = DescriptorRig::hold(source.pid());
  ASSERT_TRUE(held) << held.error().to_string();
  auto receiver = DescriptorRig::hold(replica.pid());
  ASSERT_TRUE(receiver) << receiver.error().to_string();
  auto frozen = DescriptorRig::empty_snapshot();
  frozen.set_frozen(true);
  const int64_t start = monotonic_us();
  auto done = DescriptorRig::capture_frozen(**capture, {.process = at_source, .leader = held->get()}, frozen);
  const int64_t captured = monotonic_us();
  ASSERT_TRUE(done) << done.error().to_string();
  done = (*rebuild)->complete(
      frozen, {{.container_pid = kPidInSnapshot, .host_pid = replica.pid(), .leader = receiver->get()}});
  const int64_t completed = monotonic_us();
  ASSERT_TRUE(done) << done.error().to_string();

  // Before the commit nothing has changed.
  const auto before = look();
  EXPECT_EQ(open_connected(SOCK_STREAM, names_.stream, 200), 0);
  ::close(200);
  const int64_t finishing = monotonic_us();
  const Faults faults = (*rebuild)->finish();
  std::printf("10 unix sockets: capture_frozen %ld us, complete %ld us, finish %ld us\n", captured - start,
              completed - captured, monotonic_us() - finishing);
  for (const Error& fault : faults) ADD_FAILURE() << fault.to_string();
  for (const Error& fault : (*rebuild)->clean_up()) ADD_FAILURE() << fault.to_string();
  const auto after = look();
  EXPECT_NE(before.st_ctim.tv_sec * 1'000'000'000 + before.st_ctim.tv_nsec,
            after.st_ctim.tv_sec * 1'000'000'000 + after.st_ctim.tv_nsec);
  EXPECT_EQ(after.st_mode & 07777U, 0640U);
  EXPECT_EQ(after.st_uid, kOwner);
  theirs.reset();
  ASSERT_TRUE((*receiver)->drop_scratch());
  ASSERT_TRUE((*receiver)->release());
  ASSERT_TRUE((*held)->drop_scratch());
  ASSERT_TRUE((*held)->release());
  replica.shared().asked = 1;
  ASSERT_TRUE(replica.wait_ready(2));
  EXPECT_EQ(replica.shared().value[0].load(), 0U) << "number of the check that failed";
}

int peek_offset(int socket) {
  int value = -2;
  socklen_t length = sizeof value;
  ::getsockopt(socket, SOL_SOCKET, SO_PEEK_OFF, &value, &length);
  return value;
}

TEST(UnixHealing, PeekOffsetsAreTakenBack) {
  Victim victim([](Shared& shared) {
    int ends[2];
    ::close_range(0, ~0U, 0);
    ::socketpair(AF_UNIX, SOCK_STREAM, 0, ends);
    const int offset = 0;
    ::setsockopt(ends[0], SOL_SOCKET, SO_PEEK_OFF, &offset, sizeof offset);
    shared.value[0] = static_cast<uint64_t>(peek_offset(ends[0]));
    shared.ready = 1;
    while (shared.asked.load() == 0) ::sched_yield();
    shared.failures = peek_offset(ends[0]) == -1 && peek_offset(ends[1]) == -1 ? 0 : 1;
    shared.ready = 2;
    for (;;) ::pause();
  });
  ASSERT_TRUE(victim.wait_ready());
  EXPECT_EQ(victim.shared().value[0].load(), 0U);
  EXPECT_TRUE(leave_repair_mode({victim.pid()}, RepairEnd::kSilently).empty());
  victim.shared().asked = 1;
  ASSERT_TRUE(victim.wait_ready(2));
  EXPECT_EQ(victim.shared().failures.load(), 0U);
}

TEST_F(UnixNames, WhatLeadsNowhereIsNamed) {
  Victim source([&](Shared& shared) {
    ::unshare(CLONE_NEWNET);
    ::close_range(0, ~0U, 0);
    open_bound(SOCK_STREAM, names_.stream, 10);
    ::listen(10, 1);
    ::unlink(names_.stream.c_str());  // deleted
    open_bound(SOCK_STREAM, names_.datagram, 11);
    ::listen(11, 1);
    ::rename(names_.datagram.c_str(), names_.stream.c_str());  // moved away
    open_bound(SOCK_STREAM, names_.abstract, 12);
    ::listen(12, 1);
    shared.ready = 1;
    for (;;) ::pause();
  });
  ASSERT_TRUE(source.wait_ready());
  auto capture = DescriptorCapture::open(source.pid(), "");
  ASSERT_TRUE(capture) << capture.error().to_string();
  std::vector<Refusal> refusals;
  ASSERT_TRUE((*capture)->preflight({DescriptorRig::process(source.pid())}, refusals));
  ASSERT_EQ(refusals.size(), 2U);
  EXPECT_NE(refusals[0].reason.find("deleted"), std::string::npos) << refusals[0].reason;
  EXPECT_NE(refusals[1].reason.find("another file"), std::string::npos) << refusals[1].reason;
}

}  // namespace
}  // namespace godwit::runtime::test
