// One TCP connection walks from a process in one network namespace to a process in another that has the same
// address, with unread, unacknowledged and unsent data. The client checks every byte, in both directions.
#include <arpa/inet.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <poll.h>
#include <sched.h>

#include <algorithm>
#include <cstdlib>
#include <thread>

#include "runtime/process/descriptors/table.h"
#include "runtime/process/heal.h"
#include "tests/integration/process/descriptors_rig.h"
#include "tests/integration/process/topology.h"

namespace godwit::runtime::test {
namespace {

constexpr size_t kStreamBytes = 8 << 20;
constexpr int kConnection = 5;  // its number in both processes

char pattern(uint64_t at, unsigned seed) {
  return static_cast<char>((at * 2654435761U + seed) >> 13);
}

// One step of a side: sends the next bytes of its pattern, checks those that have come. False: a wrong byte,
// a broken connection.
struct Side {
  unsigned sends;
  unsigned expects;
  bool step(int socket, uint64_t& sent, uint64_t& received, bool reads) const {
    char buffer[16384];
    const size_t length = std::min(sizeof buffer, kStreamBytes - sent);
    for (size_t i = 0; i < length; ++i) buffer[i] = pattern(sent + i, sends);
    const ssize_t put = length == 0 ? 0 : ::send(socket, buffer, length, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (put > 0) sent += static_cast<uint64_t>(put);
    if (put < 0 && errno != EAGAIN) return false;
    if (!reads || received == kStreamBytes) return true;
    const ssize_t got = ::recv(socket, buffer, sizeof buffer, MSG_DONTWAIT);
    if (got == 0 || (got < 0 && errno != EAGAIN)) return false;
    for (ssize_t i = 0; i < got; ++i)
      if (buffer[i] != pattern(received + static_cast<uint64_t>(i), expects)) return false;
    if (got > 0) received += static_cast<uint64_t>(got);
    if (got < 0 && put <= 0) ::usleep(200);
    return true;
  }
};
constexpr Side kServer = {.sends = 1, .expects = 2};
constexpr Side kClient = {.sends = 2, .expects = 1};

// shared.value: 0 sent, 1 received. shared.asked: 1 stops reading, 2 stands still.
void go_on(Shared& shared, bool obeys) {
  uint64_t sent = shared.value[0];
  uint64_t received = shared.value[1];
  while (sent < kStreamBytes || received < kStreamBytes) {
    if (obeys && shared.asked.load() == 2) break;
    if (obeys && received > kStreamBytes / 4 && shared.ready.load() == 1) shared.ready = 2;
    const bool reads = !obeys || (shared.asked.load() == 0 && received < kStreamBytes / 2);
    if (!kServer.step(kConnection, sent, received, reads)) {
      ++shared.failures;
      break;
    }
    if (!reads) ::usleep(200);
  }
  shared.value[0] = sent;
  shared.value[1] = received;
}

[[noreturn]] void stand_still(Shared& shared) {
  shared.ready = 3;
  for (;;) ::pause();
}

void serve(Shared& shared, bool obeys) {
  go_on(shared, obeys);
  stand_still(shared);
}

struct ClientOutcome {
  Fd socket;  // open to the end of the test: on a slow machine all may have gone through before the link is
              // cut
  std::atomic<bool> ended{false};
  bool right = false;
  uint64_t sent = 0;
  uint64_t received = 0;
};

void client(uint16_t port, ClientOutcome& outcome) {
  Topology::enter("c");
  outcome.socket = Fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  const int socket = outcome.socket.get();
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(port);
  ::inet_pton(AF_INET, "10.9.0.2", &address.sin_addr);
  bool right = ::connect(socket, reinterpret_cast<sockaddr*>(&address), sizeof address) == 0;
  const int64_t deadline = monotonic_us() + 20'000'000;
  while (right && monotonic_us() < deadline &&
         (outcome.sent < kStreamBytes || outcome.received < kStreamBytes))
    right = kClient.step(socket, outcome.sent, outcome.received, true);
  outcome.right = right && outcome.sent == kStreamBytes && outcome.received == kStreamBytes;
  outcome.ended = true;
}

void listen_and_accept(uint16_t port) {
  const int listener = ::socket(AF_INET, SOCK_STREAM, 0);
  const int on = 1;
  ::setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(port);
  if (::bind(listener, reinterpret_cast<sockaddr*>(&address), sizeof address) != 0) ::_exit(1);
  ::listen(listener, 16);
  ::dup2(listener, 4);
  const int accepted = ::accept(4, nullptr, nullptr);
  ::dup2(accepted, kConnection);
  ::close_range(kConnection + 1, ~0U, 0);
  ::close(3);
}

std::string text_of(const Faults& faults) {
  std::string text;
  for (const Error& fault : faults) text += fault.to_string() + "\n";
  return text;
}

// What is left after the decision: by whoever has made the sockets, or by somebody else after its death, who
// may find it done.
std::string finish(std::unique_ptr<DescriptorRebuild> rebuild, pid_t replica, bool maker_dies) {
  if (!maker_dies) return text_of(rebuild->finish());
  model::AfterCommit plan;
  plan.ParseFromString(rebuild->after_commit().SerializeAsString());
  rebuild.reset();
  return text_of(release_held(replica, {replica}, plan)) + text_of(release_held(replica, {replica}, plan));
}

int option_of(pid_t pid, int number, int level, int name) {
  DescriptorThief thief;
  const auto socket = thief.take(pid, number);
  int value = -1;
  socklen_t length = sizeof value;
  if (socket) ::getsockopt(socket->get(), level, name, &value, &length);
  return value;
}

// A worker at the source: dies when it has read everything, and undoes nothing.
int capture_and_die(pid_t source) {
  const pid_t worker = ::fork();
  if (worker == 0) {
    auto capture = DescriptorCapture::open(source, "");
    auto held = DescriptorRig::hold(source);
    auto frozen = DescriptorRig::empty_snapshot();
    frozen.set_frozen(true);
    const bool done =
        capture && held &&
        DescriptorRig::capture_frozen(
            **capture, {.process = DescriptorRig::process(source), .leader = held->get()}, frozen);
    ::_exit(done ? 0 : 1);
  }
  int status = -1;
  ::waitpid(worker, &status, 0);
  return status;
}

class Tcp : public ::testing::TestWithParam<int> {};

TEST_P(Tcp, StreamGoesOn) {
  const auto port = static_cast<uint16_t>(7000 + GetParam());
  const Topology topology;
  ASSERT_TRUE(topology.good);
  Victim source([&](Shared& shared) {
    Topology::enter("s");
    shared.ready = 1;
    listen_and_accept(port);
    serve(shared, true);
  });
  auto [ours, theirs] = DescriptorRig::make_channel();
  Victim replica([&, channel = theirs.get()](Shared& shared) {
    Topology::enter("t");
    ::fcntl(channel, F_SETFD, 0);
    shared.ready = 1;
    while (shared.asked.load() == 0) ::usleep(100);
    serve(shared, false);
  });
  ASSERT_TRUE(source.wait_ready() && replica.wait_ready());
  ::usleep(20000);
  ClientOutcome outcome;
  std::jthread thread([&] { client(port, outcome); });
  ASSERT_TRUE(source.wait_ready(2));
  const auto at_source = DescriptorRig::process(source.pid());
  auto capture = DescriptorCapture::open(source.pid(), "");
  auto rebuild = DescriptorRebuild::open(replica.pid(), std::move(ours), theirs.get(), "");
  ASSERT_TRUE(capture && rebuild);
  auto live = DescriptorRig::empty_snapshot();
  auto done = DescriptorRig::capture_live(**capture, at_source, live);
  ASSERT_TRUE(done) << done.error().to_string();
  done = (*rebuild)->prepare(live);
  ASSERT_TRUE(done) << done.error().to_string();

  source.shared().asked = 1;  // what comes now stays unread
  ::usleep(30000);
  Topology::link("cs", "down");
  ::usleep(10000);  // and what goes out now stays unacknowledged
  source.shared().asked = 2;
  ASSERT_TRUE(source.wait_ready(3));
  auto held = DescriptorRig::hold(source.pid());
  auto receiver = DescriptorRig::hold(replica.pid());
  ASSERT_TRUE(held && receiver);
  auto frozen = DescriptorRig::empty_snapshot();
  frozen.set_frozen(true);
  const int64_t start = monotonic_us();
  done = DescriptorRig::capture_frozen(**capture, {.process = at_source, .leader = held->get()}, frozen);
  ASSERT_TRUE(done) << done.error().to_string();
  const int64_t captured = monotonic_us();
  const std::vector<ReplicaProcess> processes = {
      {.container_pid = kPidInSnapshot, .host_pid = replica.pid(), .leader = receiver->get()}};
  done = (*rebuild)->complete(frozen, processes);
  ASSERT_TRUE(done) << done.error().to_string();
  const int64_t completed = monotonic_us();
  for (const model::FileDescription& one : frozen.descriptions())
    if (one.has_tcp() && !one.tcp().remote_address().empty())
      std::printf("send queue %zu (unsent %u), receive queue %zu; capture %ld us, complete %ld us\n",
                  one.tcp().send_queue().size(), one.tcp().unsent(), one.tcp().receive_queue().size(),
                  captured - start, completed - captured);
  Topology::link("ct", "up");
  EXPECT_EQ(finish(*std::move(rebuild), replica.pid(), GetParam() % 2 == 1), "");
  replica.shared().value[0] = source.shared().value[0].load();
  replica.shared().value[1] = source.shared().value[1].load();
  ASSERT_TRUE((*receiver)->drop_scratch());
  ASSERT_TRUE((*receiver)->release());
  replica.shared().asked = 1;
  EXPECT_TRUE(replica.wait_ready(3));
  while (!outcome.ended) ::usleep(1000);
  EXPECT_TRUE(outcome.right) << "sent " << outcome.sent << " received " << outcome.received;
  EXPECT_EQ(replica.shared().value[0].load(), kStreamBytes);
  EXPECT_EQ(replica.shared().value[1].load(), kStreamBytes);
  EXPECT_EQ(replica.shared().failures.load() + source.shared().failures.load(), 0U);
}

class HealedTcp : public ::testing::TestWithParam<int> {};

TEST_P(HealedTcp, StreamGoesOnWhereItWas) {
  const auto port = static_cast<uint16_t>(7100 + GetParam());
  const Topology topology;
  ASSERT_TRUE(topology.good);
  Victim source([&](Shared& shared) {
    Topology::enter("s");
    shared.ready = 1;
    listen_and_accept(port);
    go_on(shared, true);
    shared.ready = 3;
    while (shared.asked.load() != 4) ::usleep(100);
    go_on(shared, false);
    shared.ready = 4;
    for (;;) ::pause();
  });
  ASSERT_TRUE(source.wait_ready());
  ::usleep(20000);
  ClientOutcome outcome;
  std::jthread thread([&] { client(port, outcome); });
  ASSERT_TRUE(source.wait_ready(2));
  source.shared().asked = 1;
  ::usleep(30000);
  Topology::link("cs", "down");
  ::usleep(10000);
  source.shared().asked = 2;
  ASSERT_TRUE(source.wait_ready(3));

  ASSERT_EQ(capture_and_die(source.pid()), 0);
  EXPECT_EQ(option_of(source.pid(), kConnection, IPPROTO_TCP, TCP_REPAIR), 1);
  EXPECT_EQ(text_of(leave_repair_mode({source.pid(), source.pid()}, RepairEnd::kSilently)), "");
  EXPECT_EQ(option_of(source.pid(), kConnection, IPPROTO_TCP, TCP_REPAIR), 0);
  EXPECT_EQ(option_of(source.pid(), kConnection, SOL_SOCKET, SO_REUSEADDR), 1);
  Topology::link("cs", "up");
  source.shared().asked = 4;
  EXPECT_TRUE(source.wait_ready(4));
  while (!outcome.ended) ::usleep(1000);
  EXPECT_TRUE(outcome.right) << "sent " << outcome.sent << " received " << outcome.received;
  EXPECT_EQ(source.shared().failures.load(), 0U);
}

INSTANTIATE_TEST_SUITE_P(FiveTimes, HealedTcp, ::testing::Range(0, 5));
INSTANTIATE_TEST_SUITE_P(TwentyTimes, Tcp, ::testing::Range(0, 20));

}  // namespace
}  // namespace godwit::runtime::test
