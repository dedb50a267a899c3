// What becomes of an RDMA link when the network between its ends loses packets, or all of them. Needs two
// devices on two interfaces.
#include <gtest/gtest.h>

#include <thread>

#include "tests/unit/transport/links.h"
#include "tests/unit/transport/packet_loss.h"

namespace godwit::transport::test {
namespace {

class RdmaCableTest : public testing::Test {
 protected:
  void SetUp() override {
    if (const auto possible = probe_rdma(); !possible) GTEST_SKIP() << possible.error().to_string();
    for (const RdmaDevice& device : list_rdma_devices()) interfaces.push_back(device.interface);
    if (interfaces.size() < 2) GTEST_SKIP() << "two devices are needed";
    auto made = connect_rdma_ends({.streams = 2, .buffer_bytes = 65536, .buffers_per_stream = 4});
    ASSERT_TRUE(made) << made.error().to_string();
    ends = std::move(*made);
  }

  void lose(int one_in) {
    for (const std::string& interface : interfaces) {
      auto loss = PacketLoss::start(interface, one_in);
      ASSERT_TRUE(loss) << loss.error().to_string();
      losses.push_back(std::move(*loss));
    }
  }

  std::vector<std::string> interfaces;
  std::vector<PacketLoss> losses;
  Ends ends;
};

// Neither end has a deadline: the link itself notices, the target's by its probe, having nothing to send.
TEST_F(RdmaCableTest, APulledCableEndsBothEnds) {
  ASSERT_TRUE(send(*ends.sender, 0, 100, std::byte{1}));
  auto first = ends.receiver->receive();
  ASSERT_TRUE(first && first->has_value());
  ASSERT_NO_FATAL_FAILURE(lose(1));
  const int64_t begun_ns = monotonic_ns();
  int code = 0;
  int64_t target_ns = 0;
  std::thread target([&] {
    code = ends.receiver->receive().error().code;
    target_ns = monotonic_ns() - begun_ns;
  });
  static_cast<void>(send(*ends.sender, 1, 100, std::byte{2}));
  const auto barrier = ends.sender->barrier(1);
  const int64_t source_ns = monotonic_ns() - begun_ns;
  target.join();
  ASSERT_FALSE(barrier);
  EXPECT_EQ(barrier.error().code, EHOSTUNREACH) << barrier.error().to_string();
  EXPECT_EQ(code, EHOSTUNREACH);
  // Seven times the acknowledgement timeout, and up to four times that by some adapters; the probe's second.
  EXPECT_LT(source_ns, 17'000'000'000);
  EXPECT_LT(target_ns, 17'000'000'000);
  std::printf("noticed by the source after %ld ms, by the target after %ld ms\n", source_ns / 1'000'000,
              target_ns / 1'000'000);
}

TEST_F(RdmaCableTest, LostPacketsAreSentAgain) {
  ASSERT_NO_FATAL_FAILURE(lose(200));
  constexpr int kBatches = 100;
  int good = 0;
  std::thread target([&] {
    for (int i = 0; i < kBatches; ++i) {
      auto got = ends.receiver->receive();
      if (!got || !got->has_value()) return;
      const auto value = static_cast<std::byte>(i);
      bool same = (*got)->bytes.size() == 65536;
      for (const std::byte each : (*got)->bytes) same = same && each == value;
      good += same ? 1 : 0;
      if (!ends.receiver->release(**got)) return;
    }
  });
  for (int i = 0; i < kBatches; ++i) {
    const auto sent = send(*ends.sender, 0, 65536, static_cast<std::byte>(i));
    if (!sent) {
      ADD_FAILURE() << sent.error().to_string();
      break;
    }
  }
  EXPECT_TRUE(ends.sender->barrier(1));
  target.join();
  EXPECT_EQ(good, kBatches);
}

}  // namespace
}  // namespace godwit::transport::test
