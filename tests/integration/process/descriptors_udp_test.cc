// Datagrams that wait in the sockets of a process in one network namespace, and are read by another process
// in another one that has the same address.
#include <arpa/inet.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <net/if.h>
#include <netinet/in.h>
#include <sys/mman.h>

#include <algorithm>
#include <cstring>
#include <functional>
#include <string>
#include <thread>

#include "tests/integration/process/descriptors_rig.h"
#include "tests/integration/process/topology.h"

namespace godwit::runtime::test {
namespace {

// Numbers of the sockets in both processes.
constexpr int kAnywhere = 10;  // bound to no address
constexpr int kTold = 11;      // bound to no address, and told where a datagram was sent to
constexpr int kDual = 12;      // IPv6, takes IPv4 too
constexpr int kConnected = 13;
constexpr int kSignal = 14;  // gets one when all the others have theirs, and is read at once
constexpr int kFirst = kAnywhere;
constexpr int kLast = kConnected;

uint16_t port_of(int number) {
  return static_cast<uint16_t>(7200 + number);
}

sockaddr_storage address_of(const char* text, uint16_t port) {
  sockaddr_storage address{};
  address.ss_family = std::strchr(text, ':') != nullptr ? AF_INET6 : AF_INET;
  if (address.ss_family == AF_INET6) {
    auto* const v6 = reinterpret_cast<sockaddr_in6*>(&address);
    v6->sin6_port = htons(port);
    ::inet_pton(AF_INET6, text, &v6->sin6_addr);
  } else {
    auto* const v4 = reinterpret_cast<sockaddr_in*>(&address);
    v4->sin_port = htons(port);
    ::inet_pton(AF_INET, text, &v4->sin_addr);
  }
  return address;
}

// Always the same at the same address, so that both processes can tell the sender by it.
Fd bound_socket(const char* text, uint16_t port) {
  const sockaddr_storage address = address_of(text, port);
  Fd socket(::socket(address.ss_family, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  const int room = 4 << 20;
  ::setsockopt(socket.get(), SOL_SOCKET, SO_RCVBUFFORCE, &room, sizeof room);
  ::setsockopt(socket.get(), SOL_SOCKET, SO_SNDBUFFORCE, &room, sizeof room);
  if (::bind(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) ::_exit(1);
  return socket;
}

void send_to(const Fd& from, const char* text, int number, const std::string& payload) {
  const sockaddr_storage to = address_of(text, port_of(number));
  const socklen_t length = to.ss_family == AF_INET6 ? sizeof(sockaddr_in6) : sizeof(sockaddr_in);
  if (::sendto(from.get(), payload.data(), payload.size(), 0, reinterpret_cast<const sockaddr*>(&to),
               length) != static_cast<ssize_t>(payload.size()))
    ::_exit(1);
}

void open_sockets() {
  ::close_range(3, ~0U, 0);
  const auto put = [](Fd socket, int number) {
    if (::dup2(socket.get(), number) != number) ::_exit(1);
  };
  put(bound_socket("0.0.0.0", port_of(kAnywhere)), kAnywhere);
  put(bound_socket("0.0.0.0", port_of(kTold)), kTold);
  put(bound_socket("::", port_of(kDual)), kDual);
  put(bound_socket("10.9.0.2", port_of(kConnected)), kConnected);
  put(bound_socket("10.9.0.2", port_of(kSignal)), kSignal);
  const int on = 1;
  ::setsockopt(kTold, IPPROTO_IP, IP_PKTINFO, &on, sizeof on);
}

std::string big(size_t length) {
  std::string payload(length, '\0');
  for (size_t i = 0; i < length; ++i) payload[i] = static_cast<char>(i * 2654435761U >> 11);
  return payload;
}

// From within, by loopback.
void send_inside() {
  const Fd local = bound_socket("127.0.0.1", 7300);
  send_to(local, "127.0.0.1", kAnywhere, "to itself");
  send_to(local, "127.0.0.1", kTold, "to loopback");
  send_to(local, "127.0.0.1", kDual, "as IPv4");
  const Fd own = bound_socket("10.9.0.2", 7301);
  send_to(own, "10.9.0.2", kTold, "to its own address");
  const Fd six = bound_socket("::1", 7302);
  send_to(six, "::1", kDual, "as IPv6, odd");
  send_to(six, "::1", kDual, big(50'001));
  const Fd peer = bound_socket("10.9.0.2", 7303);
  send_to(peer, "10.9.0.2", kConnected, "before it was connected");
  const sockaddr_storage to = address_of("10.9.0.2", 7304);
  if (::connect(kConnected, reinterpret_cast<const sockaddr*>(&to), sizeof(sockaddr_in)) != 0) ::_exit(1);
  send_to(bound_socket("10.9.0.2", 7304), "10.9.0.2", kConnected, "from its peer");
}

// From the client, and more than its link carries at once.
void send_outside() {
  const Fd client = bound_socket("10.9.0.1", 7400);
  for (int i = 0; i < 100; ++i) send_to(client, "10.9.0.2", kAnywhere, "number " + std::to_string(i));
  send_to(client, "10.9.0.2", kAnywhere, "");
  send_to(client, "10.9.0.2", kAnywhere, big(60'000));
  send_to(client, "10.9.0.2", kTold, "to the address");
  send_to(client, "10.9.0.2", kDual, "as IPv4, too");
  send_to(client, "10.9.0.2", kSignal, "that was all");
}

std::string text_of_address(const sockaddr_storage& address) {
  char text[INET6_ADDRSTRLEN] = "";
  if (address.ss_family == AF_INET6) {
    const auto* const v6 = reinterpret_cast<const sockaddr_in6*>(&address);
    ::inet_ntop(AF_INET6, &v6->sin6_addr, text, sizeof text);
    return std::string(text) + " " + std::to_string(ntohs(v6->sin6_port));
  }
  const auto* const v4 = reinterpret_cast<const sockaddr_in*>(&address);
  ::inet_ntop(AF_INET, &v4->sin_addr, text, sizeof text);
  return std::string(text) + " " + std::to_string(ntohs(v4->sin_port));
}

// What the program sees of one datagram: sender, contents, and, if it is told, where it came in.
std::string receive(int number) {
  std::string payload(70'000, '\0');
  iovec part = {.iov_base = payload.data(), .iov_len = payload.size()};
  alignas(cmsghdr) char control[256];
  sockaddr_storage from{};
  msghdr header{};
  header.msg_name = &from;
  header.msg_namelen = sizeof from;
  header.msg_iov = &part;
  header.msg_iovlen = 1;
  header.msg_control = control;
  header.msg_controllen = sizeof control;
  const ssize_t got = ::recvmsg(number, &header, MSG_DONTWAIT);
  if (got < 0) return "";
  payload.resize(static_cast<size_t>(got));
  std::string text = std::to_string(number) + " from " + text_of_address(from);
  if (const cmsghdr* item = CMSG_FIRSTHDR(&header); item != nullptr && item->cmsg_type == IP_PKTINFO) {
    in_pktinfo info{};
    std::memcpy(&info, CMSG_DATA(item), sizeof info);
    char name[IF_NAMESIZE] = "";
    ::if_indextoname(static_cast<unsigned>(info.ipi_ifindex), name);
    text += std::string(" to ") + ::inet_ntoa(info.ipi_addr) + " of " + name;
  }
  return text + " " + std::to_string(std::hash<std::string>{}(payload)) + " " +
         (payload.size() < 40 ? payload : "long") + "\n";
}

std::string receive_all() {
  std::string text;
  for (int number = kFirst; number <= kLast; ++number) {
    for (std::string one = receive(number); !one.empty(); one = receive(number)) text += one;
    int room = 0;
    socklen_t length = sizeof room;
    ::getsockopt(number, SOL_SOCKET, SO_RCVBUF, &room, &length);
    text += std::to_string(number) + " has room for " + std::to_string(room) + "\n";
  }
  return text;
}

constexpr size_t kReportBytes = 1 << 16;

void report(char* place) {
  const std::string text = receive_all();
  std::memcpy(place, text.c_str(), std::min(text.size() + 1, kReportBytes - 1));
}

class Udp : public ::testing::TestWithParam<int> {
 protected:
  void SetUp() override {
    ASSERT_TRUE(topology_.good);
    for (const char* host : {"s", "t"})
      ASSERT_EQ(run("ip -n " + Topology::name(host) + " link set lo up"), 0);
    void* const memory =
        ::mmap(nullptr, 2 * kReportBytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    ASSERT_NE(memory, MAP_FAILED);
    reports_ = static_cast<char*>(memory);
  }
  void TearDown() override { ::munmap(reports_, 2 * kReportBytes); }

  // Has its sockets filled by itself and by the client, and stands still; reads them when it is let go.
  void serve_source(Shared& shared) const {
    Topology::enter("s");
    open_sockets();
    send_inside();
    shared.ready = 1;
    char signal = 0;
    if (::recv(kSignal, &signal, 1, 0) != 1) ::_exit(1);
    shared.ready = 2;
    while (shared.asked.load() == 0) ::usleep(100);
    report(reports_);
    shared.ready = 3;
    for (;;) ::pause();
  }
  void serve_replica(Shared& shared, int channel) const {
    Topology::enter("t");
    ::fcntl(channel, F_SETFD, 0);
    shared.ready = 1;
    while (shared.asked.load() == 0) ::usleep(100);
    report(reports_ + kReportBytes);
    shared.ready = 2;
    for (;;) ::pause();
  }
  static void from_client() {
    std::thread([] {
      Topology::enter("c");
      send_outside();
    }).join();
  }

  Topology topology_;
  char* reports_ = nullptr;
};

TEST_P(Udp, DatagramsThatWaitGoWithTheSocket) {
  Victim source([&](Shared& shared) { serve_source(shared); });
  auto [ours, theirs] = DescriptorRig::make_channel();
  Victim replica([&, channel = theirs.get()](Shared& shared) { serve_replica(shared, channel); });
  ASSERT_TRUE(source.wait_ready() && replica.wait_ready());
  from_client();
  ASSERT_TRUE(source.wait_ready(2));
  auto held = DescriptorRig::hold(source.pid());
  auto receiver = DescriptorRig::hold(replica.pid());
  auto capture = DescriptorCapture::open(source.pid(), "");
  auto rebuild = DescriptorRebuild::open(replica.pid(), std::move(ours), theirs.get(), "");
  ASSERT_TRUE(held && receiver && capture && rebuild);
  auto frozen = DescriptorRig::empty_snapshot();
  frozen.set_frozen(true);
  const int64_t begun_us = monotonic_us();
  auto done = DescriptorRig::capture_frozen(
      **capture, {.process = DescriptorRig::process(source.pid()), .leader = held->get()}, frozen);
  ASSERT_TRUE(done) << done.error().to_string();
  const int64_t captured_us = monotonic_us();
  done = (*rebuild)->complete(
      frozen, {{.container_pid = kPidInSnapshot, .host_pid = replica.pid(), .leader = receiver->get()}});
  ASSERT_TRUE(done) << done.error().to_string();
  std::printf("capture %ld us, complete %ld us\n", captured_us - begun_us, monotonic_us() - captured_us);
  Topology::link("cs", "down");
  Topology::link("ct", "up");
  EXPECT_TRUE((*rebuild)->finish().empty());
  ASSERT_TRUE((*receiver)->drop_scratch() && (*receiver)->release());
  ASSERT_TRUE((*held)->drop_scratch() && (*held)->release());
  source.shared().asked = 1;
  replica.shared().asked = 1;
  ASSERT_TRUE(source.wait_ready(3) && replica.wait_ready(2));
  // Nothing was taken from the source, which could have gone on; and the replica has the same.
  const std::string there(reports_);
  EXPECT_EQ(there, std::string(reports_ + kReportBytes));
  EXPECT_NE(there.find("number 99"), std::string::npos) << there;
  EXPECT_NE(there.find("before it was"), std::string::npos) << there;
  EXPECT_NE(there.find("to 10.9.0.2 of eth0"), std::string::npos) << there;
  EXPECT_NE(there.find("to 127.0.0.1 of lo"), std::string::npos) << there;
}

// An attempt that is undone hides an empty datagram from the next look: that one must not leave it out.
TEST_P(Udp, AnEmptyDatagramIsNotLeftOut) {
  Victim source([&](Shared& shared) { serve_source(shared); });
  ASSERT_TRUE(source.wait_ready());
  from_client();
  ASSERT_TRUE(source.wait_ready(2));
  auto held = DescriptorRig::hold(source.pid());
  auto capture = DescriptorCapture::open(source.pid(), "");
  ASSERT_TRUE(held && capture);
  const FrozenProcess process = {.process = DescriptorRig::process(source.pid()), .leader = held->get()};
  auto frozen = DescriptorRig::empty_snapshot();
  ASSERT_TRUE(DescriptorRig::capture_frozen(**capture, process, frozen));
  ASSERT_TRUE((*capture)->undo());
  const auto again = DescriptorRig::capture_frozen(**capture, process, frozen);
  ASSERT_FALSE(again);
  EXPECT_EQ(again.error().code, EAGAIN);
  ASSERT_TRUE((*capture)->undo());
  ASSERT_TRUE((*held)->drop_scratch() && (*held)->release());
  source.shared().asked = 1;
  ASSERT_TRUE(source.wait_ready(3));
  held = DescriptorRig::hold(source.pid());
  ASSERT_TRUE(held);
  const auto read = DescriptorRig::capture_frozen(
      **capture, {.process = DescriptorRig::process(source.pid()), .leader = held->get()}, frozen);
  EXPECT_TRUE(read) << read.error().to_string();
}

INSTANTIATE_TEST_SUITE_P(TenTimes, Udp, ::testing::Range(0, 10));

}  // namespace
}  // namespace godwit::runtime::test
