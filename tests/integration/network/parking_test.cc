#include "runtime/network/parking.h"

#include <fmt/format.h>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <poll.h>
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
  for (int round = 0; round < 5; ++round) {
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
  // Nothing is lost; a sender that the scheduler moves between CPUs may retransmit because of reordering,
  // which TCP undoes, but no timer may have had to help.
  EXPECT_EQ(counted.parked, counted.read);
  EXPECT_EQ(info.tcpi_backoff, 0U);
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

INSTANTIATE_TEST_SUITE_P(EachMethod, Parking, ::testing::Values(IngressMethod::kTcx, IngressMethod::kClassic),
                         [](const auto& info) {
                           return info.param == IngressMethod::kTcx ? "Tcx" : "Classic";
                         });

}  // namespace
}  // namespace godwit::runtime
