// One TCP connection walks from a process in one network namespace to a process in another that has the same
// address, with unread, unacknowledged and unsent data. The client checks every byte, in both directions.
#include <arpa/inet.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sched.h>

#include <algorithm>
#include <cstdlib>
#include <thread>

#include "tests/integration/process/descriptors_rig.h"

namespace godwit::runtime::test {
namespace {

constexpr size_t kStreamBytes = 8 << 20;
constexpr int kConnection = 5;  // its number in both processes

char pattern(uint64_t at, unsigned seed) {
  return static_cast<char>((at * 2654435761U + seed) >> 13);
}

// Taken before any fork: names must be the same in all children.
const pid_t kTestPid = ::getpid();

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
void serve(Shared& shared, bool obeys) {
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
  shared.ready = 3;
  for (;;) ::pause();
}

int run(const std::string& command) {
  return std::system((command + " 2>/dev/null").c_str());
}

// Namespaces: the client's, and two hosts' with the same address and hardware address; one link is up at a
// time.
class Topology {
 public:
  Topology() {
    std::string all;
    for (const char* host : {"s", "t"}) {
      const std::string there = name(host);
      const std::string here = std::string("c") + host;
      if (all.empty())
        all = "ip netns add " + name("c") + " && ip netns exec " + name("c") +
              " ip link add br0 type bridge forward_delay 0 && ip -n " + name("c") +
              " addr add 10.9.0.1/24 dev br0 && ip -n " + name("c") + " link set br0 up";
      all += " && ip netns add " + there + " && ip -n " + name("c") + " link add " + here +
             " type veth peer name eth0 netns " + there + " && ip -n " + there +
             " link set eth0 address 02:00:00:00:00:07 && ip -n " + there +
             " addr add 10.9.0.2/24 dev eth0 && ip -n " + there + " link set eth0 up && ip -n " + there +
             " neigh replace 10.9.0.1 lladdr 02:00:00:00:00:01 dev eth0" + " && ip -n " + name("c") +
             " link set " + here + " master br0";
    }
    all += " && ip -n " + name("c") + " link set br0 address 02:00:00:00:00:01 && ip -n " + name("c") +
           " neigh replace 10.9.0.2 lladdr 02:00:00:00:00:07 dev br0 && ip -n " + name("c") +
           " link set cs up";
    good = run(all) == 0;
  }
  ~Topology() {
    for (const char* one : {"c", "s", "t"}) run("ip netns del " + name(one));
  }
  Topology(const Topology&) = delete;
  Topology& operator=(const Topology&) = delete;
  static std::string name(const char* host) { return "gwd" + std::to_string(kTestPid) + host; }
  // Ends the process on failure: nothing of this test may happen in the machine's own namespace.
  static void enter(const char* host) {
    const Fd there(::open(("/run/netns/" + name(host)).c_str(), O_RDONLY | O_CLOEXEC));
    if (::setns(there.get(), CLONE_NEWNET) != 0) ::_exit(1);
  }
  static void link(const char* which, const char* state) {
    run("ip -n " + name("c") + " link set " + which + " " + state);
  }
  bool good = false;
};

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
  auto done = (*capture)->capture_live({at_source}, live);
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
  done = (*capture)->capture_frozen({{.process = at_source, .leader = held->get()}}, frozen);
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
  for (const Error& fault : (*rebuild)->finish()) ADD_FAILURE() << fault.to_string();
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

INSTANTIATE_TEST_SUITE_P(TwentyTimes, Tcp, ::testing::Range(0, 20));

}  // namespace
}  // namespace godwit::runtime::test
