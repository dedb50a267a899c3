// The faults of the fake link happen where they were asked for.
#include <gtest/gtest.h>

#include <thread>

#include "tests/unit/transport/links.h"

namespace godwit::transport::test {
namespace {

constexpr LinkOptions kOptions{.streams = 2, .buffer_bytes = 4096, .buffers_per_stream = 4};

TEST(FakeLinkTest, IsCutAfterTheNamedBatch) {
  auto link = make_fake_link(kOptions, {.cut_after = 3, .corrupt = {}});
  ASSERT_TRUE(link);
  for (uint32_t i = 0; i < 3; ++i) ASSERT_TRUE(send(*link->sender, i % 2, 8, std::byte{1}));
  EXPECT_EQ(link->sender->acquire(0).error().code, ECONNRESET);
  EXPECT_EQ(link->sender->barrier(1).error().code, ECONNRESET);
  for (int i = 0; i < 3; ++i) {
    auto batch = link->receiver->receive();
    ASSERT_TRUE(batch);
    ASSERT_TRUE(batch->has_value());
    EXPECT_TRUE(link->receiver->release(**batch));
  }
  EXPECT_EQ(link->receiver->receive().error().code, ECONNRESET);
}

TEST(FakeLinkTest, MayBeCutFromTheStart) {
  auto link = make_fake_link(kOptions, {.cut_after = 0, .corrupt = {}});
  ASSERT_TRUE(link);
  EXPECT_EQ(link->sender->acquire(0).error().code, ECONNRESET);
  EXPECT_EQ(link->receiver->receive().error().code, ECONNRESET);
}

TEST(FakeLinkTest, CutWakesAWaitingReceiver) {
  auto link = make_fake_link(kOptions, {.cut_after = 1, .corrupt = {}});
  ASSERT_TRUE(link);
  int code = 0;
  std::thread target([&] {
    auto batch = link->receiver->receive();
    while (batch && batch->has_value()) batch = link->receiver->receive();
    if (!batch) code = batch.error().code;
  });
  EXPECT_TRUE(send(*link->sender, 0, 8, std::byte{1}));
  target.join();
  EXPECT_EQ(code, ECONNRESET);
}

TEST(FakeLinkTest, CorruptsOneByteOfTheNamedBatchOnly) {
  auto link = make_fake_link(kOptions, {.cut_after = {}, .corrupt = 1});
  ASSERT_TRUE(link);
  for (int i = 0; i < 3; ++i) ASSERT_TRUE(send(*link->sender, 0, 9, std::byte{0x0f}));
  for (int i = 0; i < 3; ++i) {
    auto batch = link->receiver->receive();
    ASSERT_TRUE(batch);
    ASSERT_TRUE(batch->has_value());
    for (size_t at = 0; at < 9; ++at)
      EXPECT_EQ((*batch)->bytes[at], i == 1 && at == 4 ? std::byte{0xf0} : std::byte{0x0f});
  }
}

TEST(FakeLinkTest, DelaysEveryBatch) {
  constexpr int64_t kDelayNs = 30'000'000;
  auto link = make_fake_link(kOptions, {.cut_after = {}, .corrupt = {}, .delay_ns = kDelayNs});
  ASSERT_TRUE(link);
  for (int i = 0; i < 2; ++i) {
    const int64_t begin_ns = monotonic_ns();
    ASSERT_TRUE(send(*link->sender, 0, 8, std::byte{1}));
    auto batch = link->receiver->receive();
    EXPECT_GE(monotonic_ns() - begin_ns, kDelayNs);
    ASSERT_TRUE(batch);
    ASSERT_TRUE(batch->has_value());
    EXPECT_TRUE(link->receiver->release(**batch));
  }
  link->receiver->set_deadline_ns(monotonic_ns() + kDelayNs / 10);
  ASSERT_TRUE(send(*link->sender, 0, 8, std::byte{1}));
  EXPECT_EQ(link->receiver->receive().error().code, ETIMEDOUT);
}

}  // namespace
}  // namespace godwit::transport::test
