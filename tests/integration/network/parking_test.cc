#include "runtime/network/parking.h"

#include <arpa/inet.h>
#include <fmt/format.h>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <numeric>

#include "runtime/network/bpf.h"
#include "runtime/network/namespace.h"
#include "runtime/network/netlink.h"
#include "tests/integration/network/lab.h"

namespace godwit::runtime {
namespace {

using Frames = std::vector<std::vector<std::byte>>;

// Each test with each way of attaching programs that this kernel has.
class Parking : public Lab, public ::testing::WithParamInterface<IngressMethod> {
 protected:
  void SetUp() override {
    if (GetParam() == IngressMethod::kTcx && !has_tcx()) GTEST_SKIP() << "this kernel has no tcx";
    Lab::SetUp();
  }
  // Times `work` inside a host and prints it.
  Result<void> timed(const char* what, const std::string& host, const std::function<Result<void>()>& work) {
    return on(host, [&]() -> Result<void> {
      const int64_t start_ns = monotonic_ns();
      auto result = work();
      fmt::print("{}: {:.1f} us\n", what, static_cast<double>(monotonic_ns() - start_ns) / 1000);
      return result;
    });
  }
  Result<std::unique_ptr<ParkingLot>> prepare(const std::string& host, const Attachment& attachment) {
    Result<std::unique_ptr<ParkingLot>> lot;
    GODWIT_TRY(timed("prepare", host, [&]() -> Result<void> {
      lot = ParkingLot::prepare(attachment, GetParam());
      return {};
    }));
    return lot;
  }
  // Until none came for `quiet_ms`, but no longer than `most_ms`: while the stream goes on, they never end.
  static void collect(ParkingLot& lot, int quiet_ms, Frames& frames, int64_t most_ms = 10'000) {
    pollfd wait{.fd = lot.fd(), .events = POLLIN, .revents = 0};
    const int64_t end_ns = monotonic_ns() + most_ms * 1'000'000;
    while (monotonic_ns() < end_ns && ::poll(&wait, 1, quiet_ms) > 0) {
      auto frame = lot.read_frame();
      ASSERT_OK(frame);
      if (*frame) frames.push_back(std::move(**frame));
    }
  }
  // Order is not promised on a machine so busy that `lot` had to give it up.
  static void expect_all(std::vector<uint32_t> numbers, uint32_t sent, const ParkingLot& lot) {
    if (lot.statistics().order_given_up) {
      fmt::print("the order was given up\n");
      std::ranges::sort(numbers);
    }
    expect_all_in_order(numbers, sent);
  }
  static void expect_all_in_order(const std::vector<uint32_t>& numbers, uint32_t sent) {
    std::vector<uint32_t> expected(sent);
    std::iota(expected.begin(), expected.end(), 0U);
    EXPECT_EQ(numbers.size(), expected.size());
    const auto [got, want] = std::ranges::mismatch(numbers, expected);
    if (got != numbers.end() && want != expected.end())
      ADD_FAILURE() << "got " << *got << " in place of " << *want;
  }
};

TEST_P(Parking, EveryDatagramArrivesOnceAndInOrderAcrossAMove) {
  const auto source = attach("a", false);
  const auto target = attach("b", true);
  ASSERT_OK(source);
  ASSERT_OK(target);
  auto source_socket = receiver(source->network_namespace);
  auto target_socket = receiver(target->network_namespace);
  ASSERT_OK(source_socket);
  ASSERT_OK(target_socket);
  auto source_lot = prepare("a", *source);
  auto target_lot = prepare("b", *target);
  ASSERT_OK(source_lot);
  ASSERT_OK(target_lot);
  NumberedStream stream(place("client"));
  stream.wait_for_more(1000);

  std::vector<uint32_t> numbers;
  ASSERT_OK(timed("park", "a", [&] { return (*source_lot)->park(); }));
  receive_numbers(*source_socket, 0, numbers);
  const size_t at_source = numbers.size();
  EXPECT_GT(at_source, 100U);
  Frames frames;
  collect(**source_lot, 5, frames, 20);
  receive_numbers(*source_socket, 20, numbers);
  EXPECT_EQ(numbers.size(), at_source) << "a datagram reached the container after park()";

  ASSERT_OK(timed("park at the target", "b", [&] { return (*target_lot)->park_ingress(); }));
  ASSERT_OK(timed("seal", "a", [&] { return (*source_lot)->seal(); }));
  ASSERT_OK(timed("open_port", "b", [&] { return open_port(*target); }));
  ASSERT_OK(announce(*target));
  ASSERT_OK(timed("forward_elsewhere", "a", [&] { return (*source_lot)->forward_elsewhere(); }));
  collect(**source_lot, 20, frames);
  fmt::print("{} frames parked at the source\n", frames.size());
  ASSERT_OK(timed("unpark at the target", "b", [&] { return (*target_lot)->unpark(frames); }));
  sleep_ms(200);
  const uint32_t sent = stream.stop();
  receive_numbers(*target_socket, 50, numbers);
  receive_numbers(*source_socket, 0, numbers);
  fmt::print("{} at the source, {} in all, {} sent\n", at_source, numbers.size(), sent);
  expect_all(numbers, sent, **target_lot);
}

TEST_P(Parking, UnparkPutsEverythingBackInOrder) {
  const auto attachment = attach("a", false);
  ASSERT_OK(attachment);
  auto socket = receiver(attachment->network_namespace);
  ASSERT_OK(socket);
  auto lot = prepare("a", *attachment);
  ASSERT_OK(lot);
  NumberedStream stream(place("client"));
  stream.wait_for_more(500);
  std::vector<uint32_t> numbers;
  for (int round = 0; round < 20; ++round) {
    ASSERT_OK(timed("park", "a", [&] { return (*lot)->park(); }));
    stream.wait_for_more(60);
    // Half of them were on their way to a target that failed.
    Frames unsent;
    for (int i = 0; i < 50; ++i) {
      auto frame = (*lot)->read_frame();
      ASSERT_OK(frame);
      if (*frame) unsent.push_back(std::move(**frame));
    }
    ASSERT_OK(timed("unpark", "a", [&] { return (*lot)->unpark(unsent); }));
    receive_numbers(*socket, 0, numbers, 2);
    sleep_ms(2);
  }
  const uint32_t sent = stream.stop();
  receive_numbers(*socket, 50, numbers);
  expect_all(numbers, sent, **lot);
  EXPECT_GT((*lot)->statistics().parked, 500U);
}

TEST_P(Parking, DeliveryReachesAHeldContainerWithGoodChecksums) {
  const auto source = attach("a", false);
  const auto target = attach("b", true);
  ASSERT_OK(source);
  ASSERT_OK(target);
  auto source_socket = receiver(source->network_namespace);
  auto target_socket = receiver(target->network_namespace);
  ASSERT_OK(source_socket);
  ASSERT_OK(target_socket);
  auto lot = prepare("a", *source);
  ASSERT_OK(lot);
  NumberedStream stream(place("client"));
  stream.wait_for_more(200);
  ASSERT_OK(on("a", [&] { return (*lot)->park(); }));
  stream.wait_for_more(100);
  stream.stop();
  Frames frames;
  collect(**lot, 20, frames);
  ASSERT_GT(frames.size(), 50U);
  ASSERT_OK(timed("deliver all", "b", [&]() -> Result<void> {
    GODWIT_ASSIGN(const auto delivery, FrameDelivery::open(*target));
    EXPECT_FALSE(delivery->deliver(std::span(frames[0]).first(5)).has_value());
    for (const auto& frame : frames) GODWIT_TRY(delivery->deliver(frame));
    return {};
  }));
  std::vector<uint32_t> numbers;
  receive_numbers(*target_socket, 50, numbers);
  ASSERT_GT(numbers.size(), 50U);
  for (size_t i = 1; i < numbers.size(); ++i) ASSERT_EQ(numbers[i], numbers[i - 1] + 1);
}

// What tc(8) says of an interface's classic filters.
std::string filters_of(const std::string& network_namespace, const std::string& interface) {
  const std::string command =
      fmt::format("nsenter --net={} tc filter show dev {} ingress", network_namespace, interface);
  FILE* const output = ::popen(command.c_str(), "r");
  std::string text;
  std::array<char, 256> line{};
  while (output != nullptr && std::fgets(line.data(), line.size(), output) != nullptr) text += line.data();
  EXPECT_EQ(::pclose(output), 0) << command;
  return text;
}

size_t tcx_programs(const std::string& interface) {
  if (!has_tcx()) return 0;
  const auto index = interface_index(interface);
  if (!index) return SIZE_MAX;
  const auto found = find_tcx_ingress("godwit", *index, interface);
  return found ? found->size() : SIZE_MAX;
}

TEST_P(Parking, FiltersGoWithTheLot) {
  const auto attachment = attach("a", false);
  ASSERT_OK(attachment);
  const bool classic = GetParam() == IngressMethod::kClassic;
  const auto show = [&] {
    return std::array{filters_of(place("a"), attachment->host_interface),
                      filters_of(attachment->network_namespace, attachment->container_interface)};
  };
  const auto expect_programs = [&](size_t count) {
    ASSERT_OK(on("a", [&]() -> Result<void> {
      EXPECT_EQ(tcx_programs(attachment->host_interface), count);
      return {};
    }));
    ASSERT_OK(run_in_network_namespace(attachment->network_namespace, [&]() -> Result<void> {
      EXPECT_EQ(tcx_programs(attachment->container_interface), count);
      return {};
    }));
  };
  auto lot = prepare("a", *attachment);
  ASSERT_OK(lot);
  for (const std::string& text : show()) EXPECT_EQ(text.contains("godwit direct-action"), classic) << text;
  expect_programs(classic ? 0 : 1);
  lot->reset();
  for (const std::string& text : show()) EXPECT_EQ(text, "");
  expect_programs(0);
}

TEST_P(Parking, ABulkTcpStreamLosesNothing) {
  const auto attachment = attach("a", false);
  ASSERT_OK(attachment);
  auto lot = prepare("a", *attachment);
  ASSERT_OK(lot);
  auto pair = connect_tcp(attachment->network_namespace, place("client"));
  ASSERT_OK(pair);
  constexpr size_t kWords = size_t{8} << 20;
  std::thread sender([&] {
    std::array<uint64_t, 8192> block{};
    for (size_t word = 0; word < kWords; word += block.size()) {
      std::iota(block.begin(), block.end(), word);
      size_t done = 0;
      while (done < sizeof block) {
        const ssize_t count =
            ::send(pair->client.get(), reinterpret_cast<char*>(block.data()) + done, sizeof block - done, 0);
        if (count <= 0) return;
        done += static_cast<size_t>(count);
      }
    }
    ::shutdown(pair->client.get(), SHUT_WR);
  });
  std::atomic<size_t> received = 0;
  std::atomic<size_t> wrong = 0;
  std::thread reader([&] {
    std::array<uint64_t, 8192> block{};
    ssize_t count = 0;
    while ((count = ::recv(pair->server.get(), block.data(), sizeof block, MSG_WAITALL)) > 0) {
      for (size_t i = 0; i < static_cast<size_t>(count) / 8; ++i)
        if (block[i] != received++) ++wrong;
    }
  });
  // The reader is not frozen here: acknowledgements that it causes while parked are kept in, and the sender's
  // timer has to ask for them. Nothing comes meanwhile.
  for (int round = 0; round < 5 || (round < 500 && (*lot)->statistics().parked == 0); ++round) {
    sleep_ms(2);
    EXPECT_TRUE(timed("park", "a", [&] { return (*lot)->park(); }).has_value());
    sleep_ms(5);
    EXPECT_TRUE(timed("unpark", "a", [&] { return (*lot)->unpark({}); }).has_value());
  }
  sender.join();
  reader.join();
  EXPECT_EQ(received, kWords);
  EXPECT_EQ(wrong, 0U);
  tcp_info info{};
  socklen_t size = sizeof info;
  ASSERT_EQ(::getsockopt(pair->client.get(), IPPROTO_TCP, TCP_INFO, &info, &size), 0);
  const auto counted = (*lot)->statistics();
  fmt::print("retransmissions: {}, frames parked: {}, read: {}\n", info.tcpi_total_retrans, counted.parked,
             counted.read);
  EXPECT_GT(counted.parked, 0U);
  EXPECT_EQ(counted.parked, counted.read);
}

// What a frozen container's kernel sends after its sockets were read, the peer would know and the replica
// not.
TEST_P(Parking, NothingLeavesAParkedContainer) {
  const auto attachment = attach("a", false);
  ASSERT_OK(attachment);
  auto lot = prepare("a", *attachment);
  ASSERT_OK(lot);
  auto pair = connect_tcp(attachment->network_namespace, place("client"));
  ASSERT_OK(pair);
  ASSERT_OK(on("a", [&] { return (*lot)->park(); }));
  ASSERT_EQ(::send(pair->server.get(), "late", 4, 0), 4);
  pollfd wait{.fd = pair->client.get(), .events = POLLIN, .revents = 0};
  EXPECT_EQ(::poll(&wait, 1, 500), 0) << "a segment left the container";
  EXPECT_GT((*lot)->statistics().dropped_own, 0U);
  ASSERT_OK(on("a", [&] { return (*lot)->unpark({}); }));
  ASSERT_EQ(::poll(&wait, 1, 30'000), 1) << "it was never sent again";
  std::array<char, 8> received{};
  EXPECT_EQ(::recv(pair->client.get(), received.data(), received.size(), 0), 4);
}

// A connection whose both ends are in one network namespace, with a sender that its kernel paces.
Result<TcpPair> connect_inside(const std::string& network_namespace, const std::string& address) {
  constexpr uint32_t kBytesPerSecond = 4'000'000;
  const bool ipv6 = address.contains(':');
  sockaddr_storage place{};
  auto* const v4 = reinterpret_cast<sockaddr_in*>(&place);
  auto* const v6 = reinterpret_cast<sockaddr_in6*>(&place);
  place.ss_family = ipv6 ? AF_INET6 : AF_INET;
  ::inet_pton(place.ss_family, address.c_str(),
              ipv6 ? static_cast<void*>(&v6->sin6_addr) : static_cast<void*>(&v4->sin_addr));
  auto* const raw = reinterpret_cast<sockaddr*>(&place);
  socklen_t length = ipv6 ? sizeof *v6 : sizeof *v4;
  TcpPair pair;
  GODWIT_TRY(run_in_network_namespace(network_namespace, [&]() -> Result<void> {
    const Fd listener(::socket(place.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0));
    const int room = 8 << 20;
    ::setsockopt(listener.get(), SOL_SOCKET, SO_RCVBUFFORCE, &room, sizeof room);
    if (::bind(listener.get(), raw, length) != 0 || ::listen(listener.get(), 1) != 0 ||
        ::getsockname(listener.get(), raw, &length) != 0)
      return fail("listen at", address);
    pair.client = Fd(::socket(place.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0));
    ::setsockopt(pair.client.get(), SOL_SOCKET, SO_SNDBUFFORCE, &room, sizeof room);
    ::setsockopt(pair.client.get(), SOL_SOCKET, SO_MAX_PACING_RATE, &kBytesPerSecond, sizeof kBytesPerSecond);
    if (::connect(pair.client.get(), raw, length) != 0) return fail("connect to", address);
    pair.server = Fd(::accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC));
    return {};
  }));
  return pair;
}

int waiting_in(const Fd& socket) {
  int bytes = 0;
  return ::ioctl(socket.get(), FIONREAD, &bytes) == 0 ? bytes : -1;
}

// Frozen processes do not stop their kernel: what it goes on sending by loopback, while sockets are read,
// would be lost.
TEST_P(Parking, NothingMovesByLoopbackWhileParked) {
  const auto attachment = attach("a", false);
  ASSERT_OK(attachment);
  auto lot = prepare("a", *attachment);
  ASSERT_OK(lot);
  std::vector<TcpPair> pairs;
  for (const char* address : {"127.0.0.1", kContainerAddress, "::1"}) {
    auto pair = connect_inside(attachment->network_namespace, address);
    ASSERT_OK(pair);
    pairs.push_back(*std::move(pair));
  }
  for (int round = 0; round < 3; ++round) {
    // A second's worth, given to the kernel at once.
    const std::vector<char> bytes(4'000'000 / 3);
    for (const TcpPair& pair : pairs)
      ASSERT_EQ(::send(pair.client.get(), bytes.data(), bytes.size(), MSG_DONTWAIT),
                static_cast<ssize_t>(bytes.size()));
    ASSERT_OK(timed("park", "a", [&] { return (*lot)->park(); }));
    std::vector<int> before;
    before.reserve(pairs.size());
    for (const TcpPair& pair : pairs) before.push_back(waiting_in(pair.server));
    sleep_ms(60);
    for (size_t i = 0; i < pairs.size(); ++i) {
      EXPECT_EQ(waiting_in(pairs[i].server), before[i]) << "connection " << i;
      EXPECT_LT(before[i], static_cast<int>(bytes.size()) * (round + 1)) << "nothing was left to move";
    }
    ASSERT_OK(timed("unpark", "a", [&] { return (*lot)->unpark({}); }));
    const int64_t end_ns = monotonic_ns() + 30'000'000'000;
    for (const TcpPair& pair : pairs)
      while (waiting_in(pair.server) < static_cast<int>(bytes.size()) * (round + 1) &&
             monotonic_ns() < end_ns)
        sleep_ms(5);
    for (const TcpPair& pair : pairs)
      EXPECT_EQ(waiting_in(pair.server), static_cast<int>(bytes.size()) * (round + 1));
  }
}

TEST_P(Parking, DatagramsByLoopbackAreNotLost) {
  const auto attachment = attach("a", false);
  ASSERT_OK(attachment);
  auto lot = prepare("a", *attachment);
  ASSERT_OK(lot);
  auto socket = receiver(attachment->network_namespace);
  ASSERT_OK(socket);
  std::vector<uint32_t> numbers;
  uint32_t sent = 0;
  for (int round = 0; round < 20; ++round) {
    ASSERT_OK(run_in_network_namespace(attachment->network_namespace, [&]() -> Result<void> {
      const Fd sender(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
      sockaddr_in address{};
      address.sin_family = AF_INET;
      address.sin_port = htons(kPort);
      address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
      for (int i = 0; i < 100; ++i) {
        const std::array<uint32_t, 50> datagram = {sent++};
        if (::sendto(sender.get(), datagram.data(), sizeof datagram, 0,
                     reinterpret_cast<const sockaddr*>(&address), sizeof address) < 0)
          return fail("send", "a datagram");
      }
      return {};
    }));
    ASSERT_OK(on("a", [&] { return (*lot)->park(); }));
    receive_numbers(*socket, 0, numbers);
    EXPECT_EQ(numbers.size(), sent) << "a datagram was still on its way after park()";
    ASSERT_OK(on("a", [&] { return (*lot)->unpark({}); }));
  }
  expect_all_in_order(numbers, sent);
}

TEST_P(Parking, NewcomersWaitWhileOthersGoOn) {
  const auto attachment = attach("a", false);
  ASSERT_OK(attachment);
  auto lot = prepare("a", *attachment);
  ASSERT_OK(lot);
  auto pair = connect_tcp(attachment->network_namespace, place("client"));
  ASSERT_OK(pair);
  Fd listener;
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(kPort + 1);
  ::inet_pton(AF_INET, kContainerAddress, &address.sin_addr);
  const auto* const raw = reinterpret_cast<const sockaddr*>(&address);
  ASSERT_OK(run_in_network_namespace(attachment->network_namespace, [&]() -> Result<void> {
    listener = Fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    if (::bind(listener.get(), raw, sizeof address) != 0 || ::listen(listener.get(), 8) != 0)
      return fail("listen", "in the container");
    return {};
  }));
  ASSERT_OK(timed("park newcomers", "a", [&] { return (*lot)->park_newcomers(); }));
  Fd newcomer;
  ASSERT_OK(run_in_network_namespace(place("client"), [&]() -> Result<void> {
    newcomer = Fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    if (::connect(newcomer.get(), raw, sizeof address) == 0) return fail("park", "a newcomer", EISCONN);
    return {};
  }));
  char byte = 'x';
  for (int i = 0; i < 20; ++i) {
    ASSERT_EQ(::send(pair->client.get(), &byte, 1, 0), 1);
    ASSERT_EQ(::recv(pair->server.get(), &byte, 1, 0), 1);
    ASSERT_EQ(::send(pair->server.get(), &byte, 1, 0), 1);
    ASSERT_EQ(::recv(pair->client.get(), &byte, 1, 0), 1);
  }
  pollfd connected{.fd = newcomer.get(), .events = POLLOUT, .revents = 0};
  EXPECT_EQ(::poll(&connected, 1, 50), 0) << "a connection began while newcomers were parked";
  EXPECT_GT((*lot)->statistics().parked, 0U);
  // From there to the closed gate, and back to normal.
  ASSERT_OK(on("a", [&] { return (*lot)->park(); }));
  EXPECT_EQ(::poll(&connected, 1, 20), 0);
  ASSERT_OK(timed("unpark", "a", [&] { return (*lot)->unpark({}); }));
  EXPECT_EQ(::poll(&connected, 1, 10'000), 1);
  EXPECT_TRUE(Fd(::accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC)).valid());
}

INSTANTIATE_TEST_SUITE_P(EachMethod, Parking, ::testing::Values(IngressMethod::kTcx, IngressMethod::kClassic),
                         [](const auto& info) {
                           return info.param == IngressMethod::kTcx ? "Tcx" : "Classic";
                         });

}  // namespace
}  // namespace godwit::runtime
