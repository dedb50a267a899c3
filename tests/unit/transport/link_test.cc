// What transport/link.h promises, kept by every kind of link that the executable names (link_kinds.cc,
// rdma_kinds.cc).
#include <gtest/gtest.h>

#include <atomic>
#include <cstring>
#include <thread>
#include <vector>

#include "tests/unit/transport/link_test.h"

namespace godwit::transport::test {

TEST_P(LinkTest, KeepsOrderAndContentsOfEachStreamAndCloses) {
  const LinkOptions options{.streams = 3, .buffer_bytes = 300'000, .buffers_per_stream = 4};
  ASSERT_NO_FATAL_FAILURE(connect(options));
  std::vector<uint64_t> next(options.streams);
  std::string failure;
  std::thread target([&] {
    for (;;) {
      auto batch = receiver->receive();
      if (!batch) failure = batch.error().to_string();
      if (!batch || !batch->has_value()) return;
      const LinkReceiver::Batch& got = **batch;
      const uint64_t number = next[got.stream]++;
      if (got.bytes.size() != (number * 7919) % options.buffer_bytes + 1) failure = "wrong size";
      for (const std::byte value : got.bytes)
        if (value != static_cast<std::byte>(number)) failure = "wrong contents";
      if (auto released = receiver->release(got); !released) failure = released.error().to_string();
    }
  });
  for (uint64_t i = 0; i < 60; ++i)
    for (uint32_t stream = 0; stream < options.streams; ++stream) {
      const auto size = static_cast<uint32_t>((i * 7919) % options.buffer_bytes + 1);
      const auto sent = send(*sender, stream, size, static_cast<std::byte>(i));
      EXPECT_TRUE(sent) << sent.error().to_string();
    }
  const auto barrier = sender->barrier(1);
  EXPECT_TRUE(barrier) << barrier.error().to_string();
  EXPECT_EQ(receiver->counters().batches, 180U);
  EXPECT_EQ(receiver->counters().bytes, sender->counters().bytes);
  EXPECT_EQ(sender->counters().batches, 180U);
  sender.reset();
  target.join();
  EXPECT_EQ(failure, "");
}

TEST_P(LinkTest, SeveralThreadsReceiveEveryBatchOnce) {
  constexpr uint32_t kBatches = 400;
  ASSERT_NO_FATAL_FAILURE(connect({.streams = 4, .buffer_bytes = 8192, .buffers_per_stream = 3}));
  std::vector<std::atomic<uint32_t>> seen(kBatches);
  std::atomic<uint32_t> failures = 0;
  std::vector<std::thread> threads;
  threads.reserve(3);
  for (int i = 0; i < 3; ++i)
    threads.emplace_back([&] {
      for (;;) {
        auto batch = receiver->receive();
        if (!batch) ++failures;
        if (!batch || !batch->has_value()) return;
        uint32_t number = kBatches;
        std::memcpy(&number, (*batch)->bytes.data(), sizeof number);
        if (number < kBatches) ++seen[number];
        if (!receiver->release(**batch)) ++failures;
      }
    });
  for (uint32_t i = 0; i < kBatches; ++i) {
    auto buffer = sender->acquire(i % 4);
    if (!buffer) break;
    std::memcpy(buffer->memory.data(), &i, sizeof i);
    EXPECT_TRUE(sender->submit(*buffer, 8192));
  }
  EXPECT_TRUE(sender->barrier(1));
  sender.reset();
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(failures, 0U);
  for (const auto& count : seen) EXPECT_EQ(count, 1U);
}

TEST_P(LinkTest, CreditsBlockUntilTheDeadlineWhichEndsTheLink) {
  ASSERT_NO_FATAL_FAILURE(connect({.streams = 1, .buffer_bytes = 4096, .buffers_per_stream = 2}));
  for (int i = 0; i < 2; ++i) ASSERT_TRUE(send(*sender, 0, 1, std::byte{1}));
  sender->set_deadline_ns(monotonic_ns() + 50'000'000);
  EXPECT_EQ(sender->acquire(0).error().code, ETIMEDOUT);
  sender->set_deadline_ns(0);
  EXPECT_EQ(sender->barrier(1).error().code, ETIMEDOUT);
  for (int i = 0; i < 2; ++i) static_cast<void>(take());
  EXPECT_EQ(receiver->receive().error().code, ECONNRESET);
}

TEST_P(LinkTest, ReceiveEndsTheLinkAtItsDeadline) {
  ASSERT_NO_FATAL_FAILURE(connect({.buffer_bytes = 4096}));
  receiver->set_deadline_ns(monotonic_ns() + 50'000'000);
  EXPECT_EQ(receiver->receive().error().code, ETIMEDOUT);
  receiver->set_deadline_ns(0);
  EXPECT_EQ(receiver->receive().error().code, ETIMEDOUT);
  static_cast<void>(send(*sender, 0, 1, std::byte{1}));
  EXPECT_FALSE(sender->barrier(1));
}

TEST_P(LinkTest, BarrierWaitsForTheReleaseAndNotForTheArrival) {
  ASSERT_NO_FATAL_FAILURE(connect({.streams = 2, .buffer_bytes = 4096, .buffers_per_stream = 2}));
  ASSERT_TRUE(sender->barrier(1));
  ASSERT_TRUE(send(*sender, 0, 100, std::byte{1}));
  ASSERT_TRUE(send(*sender, 1, 100, std::byte{2}));
  const LinkReceiver::Batch first = take();
  const LinkReceiver::Batch second = take();
  std::atomic<bool> releasing = false;
  std::thread target([&] {
    EXPECT_TRUE(receiver->release(second));
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
    releasing = true;
    EXPECT_TRUE(receiver->release(first));
  });
  EXPECT_TRUE(sender->barrier(2));
  EXPECT_TRUE(releasing);
  target.join();
}

TEST_P(LinkTest, BatchesMayBeReleasedInAnyOrder) {
  ASSERT_NO_FATAL_FAILURE(connect({.streams = 1, .buffer_bytes = 4096, .buffers_per_stream = 3}));
  for (int round = 0; round < 5; ++round) {
    std::vector<LinkReceiver::Batch> batches;
    batches.reserve(3);
    for (int i = 0; i < 3; ++i) ASSERT_TRUE(send(*sender, 0, 64, static_cast<std::byte>(i)));
    for (int i = 0; i < 3; ++i) batches.push_back(take());
    for (const int i : {1, 2, 0}) {
      EXPECT_EQ(batches[i].bytes.front(), static_cast<std::byte>(i));
      EXPECT_TRUE(receiver->release(batches[i]));
    }
  }
  EXPECT_TRUE(sender->barrier(1));
}

TEST_P(LinkTest, WrongBuffersAndSizesAreRefusedAndDoNotEndTheLink) {
  ASSERT_NO_FATAL_FAILURE(connect({.streams = 2, .buffer_bytes = 4096, .buffers_per_stream = 2}));
  EXPECT_EQ(sender->acquire(2).error().code, EINVAL);
  auto buffer = sender->acquire(1);
  ASSERT_TRUE(buffer);
  EXPECT_EQ(buffer->memory.size(), 4096U);
  EXPECT_EQ(sender->submit(*buffer, 0).error().code, EINVAL);
  EXPECT_EQ(sender->submit(*buffer, 4097).error().code, EINVAL);
  LinkSender::Buffer wrong = *buffer;
  wrong.index = 2;
  EXPECT_EQ(sender->submit(wrong, 1).error().code, EINVAL);
  wrong = *buffer;
  wrong.stream = 2;
  EXPECT_EQ(sender->submit(wrong, 1).error().code, EINVAL);
  EXPECT_TRUE(sender->submit(*buffer, 4096));
  EXPECT_EQ(sender->submit(*buffer, 4096).error().code, EINVAL);
  const LinkReceiver::Batch batch = take();
  EXPECT_EQ(batch.stream, 1U);
  EXPECT_EQ(receiver->release({.bytes = {}, .index = 0, .stream = 9}).error().code, EINVAL);
  EXPECT_EQ(receiver->release({.bytes = {}, .index = 9, .stream = 0}).error().code, EINVAL);
  EXPECT_TRUE(receiver->release(batch));
  EXPECT_EQ(receiver->release(batch).error().code, EINVAL);
  EXPECT_TRUE(sender->barrier(1));
}

TEST_P(LinkTest, OptionsOutOfBoundsAreRefused) {
  for (const LinkOptions& options :
       {LinkOptions{.streams = 0}, LinkOptions{.streams = kStreamsMax + 1}, LinkOptions{.buffer_bytes = 0},
        LinkOptions{.buffer_bytes = kBufferBytesMax + 1}, LinkOptions{.buffers_per_stream = 0},
        LinkOptions{.buffers_per_stream = UINT32_MAX},
        LinkOptions{.streams = 16, .buffer_bytes = kBufferBytesMax, .buffers_per_stream = 64}}) {
    if (GetParam() == Kind::kFake) {
      EXPECT_EQ(make_fake_link(options).error().code, EINVAL);
    } else if (GetParam() == Kind::kRdma) {
      EXPECT_EQ(connect_rdma_link("127.0.0.1", 1, std::string(16, 'x'), options, 0).error().code, EINVAL);
    } else {
      EXPECT_EQ(connect_tcp_link("127.0.0.1", 1, std::string(16, 'x'), options, 0).error().code, EINVAL);
    }
  }
}

TEST_P(LinkTest, CancelWakesWaitingThreadsAndCutsTheSender) {
  ASSERT_NO_FATAL_FAILURE(connect({.streams = 2, .buffer_bytes = 4096, .buffers_per_stream = 2}));
  std::vector<int> codes(3);
  std::vector<std::thread> threads;
  threads.reserve(codes.size());
  for (int& code : codes) threads.emplace_back([&] { code = receiver->receive().error().code; });
  receiver->cancel();
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(codes, std::vector<int>(3, ECANCELED));
  static_cast<void>(send(*sender, 0, 1, std::byte{1}));
  EXPECT_FALSE(sender->barrier(1));
}

TEST_P(LinkTest, AReceiverThatGoesEndsTheSendersBarrier) {
  ASSERT_NO_FATAL_FAILURE(connect({.streams = 2, .buffer_bytes = 4096, .buffers_per_stream = 2}));
  ASSERT_TRUE(send(*sender, 1, 10, std::byte{1}));
  static_cast<void>(take());
  std::thread target([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    receiver.reset();
  });
  const auto barrier = sender->barrier(1);
  target.join();
  ASSERT_FALSE(barrier);
  EXPECT_NE(barrier.error().code, ETIMEDOUT);
  EXPECT_EQ(sender->acquire(0).error().code, barrier.error().code);
}

}  // namespace godwit::transport::test
