// The source's end of a TCP link against a target that is broken or hostile. Whatever it answers, the end is
// an error: never a crash, never a wait beyond the deadline.
#include <gtest/gtest.h>
#include <poll.h>

#include "tests/unit/transport/raw_peer.h"

namespace godwit::transport::test {
namespace {

constexpr LinkOptions kOptions{.streams = 1, .buffer_bytes = 8192, .buffers_per_stream = 4};

FrameHeader credit(uint64_t number) {
  return {.type = FrameType::kCredit, .number = number};
}

class HostileTargetTest : public testing::TestWithParam<Kind> {
 protected:
  void SetUp() override {
    if (const auto possible = probe(GetParam()); !possible) GTEST_SKIP() << possible.error().to_string();
    auto made = listen_tcp("127.0.0.1", 0);
    ASSERT_TRUE(made) << made.error().to_string();
    listener = std::move(*made);
    const auto bound = local_port(listener.get());
    ASSERT_TRUE(bound);
    port = *bound;
  }

  // Connects to a target that answers this to the hello.
  Result<std::unique_ptr<LinkSender>> connect(const Bytes& answer, int64_t deadline_ns = in_seconds(5)) {
    std::thread target([&] {
      if (!wait_for(listener.get(), POLLIN, in_seconds(5))) return;
      peer = Fd(::accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC));
      std::array<std::byte, sizeof(Hello)> hello{};
      static_cast<void>(receive_all(peer.get(), hello, in_seconds(5)));
      say(peer, answer);
    });
    auto link =
        connect_tcp_link("127.0.0.1", port, std::string(16, 't'), kOptions, deadline_ns, io_of(GetParam()));
    target.join();
    if (link) (*link)->set_deadline_ns(in_seconds(5));
    return link;
  }

  // A link with two batches under way.
  void join(std::unique_ptr<LinkSender>& sender) {
    auto link = connect(seal({.type = FrameType::kWelcome, .number = kProtocolVersion}));
    ASSERT_TRUE(link) << link.error().to_string();
    sender = std::move(*link);
    for (int i = 0; i < 2; ++i) ASSERT_TRUE(send(*sender, 0, 100, std::byte{1}));
  }

  Fd listener;
  uint16_t port = 0;
  Fd peer;
};

TEST_P(HostileTargetTest, AnAnswerThatIsNoneEndsTheAttempt) {
  const auto code_of = [&](const Bytes& answer) { return connect(answer).error().code; };
  std::mt19937 random(1);
  EXPECT_EQ(code_of(random_bytes(random, 64)), EPROTO);
  EXPECT_EQ(code_of(Bytes(32, std::byte{0})), EPROTO);
  EXPECT_EQ(code_of(seal(credit(1))), EPROTO);
  EXPECT_EQ(code_of(seal({.type = FrameType::kWelcome, .number = 2})), EPROTO);
  EXPECT_EQ(code_of(seal({.type = FrameType::kWelcome, .size = 1, .number = 1})), EPROTO);
  EXPECT_EQ(code_of(seal({.type = FrameType::kRefused, .number = UINT64_MAX})), ECONNREFUSED);
  EXPECT_EQ(connect({}, monotonic_ns() + 100'000'000).error().code, ETIMEDOUT);
}

TEST_P(HostileTargetTest, ImpossibleCreditsEndTheLink) {
  FrameHeader reserved = credit(1);
  reserved.zero = 1;
  FrameHeader sized = credit(1);
  sized.size = 4;
  for (const FrameHeader& header :
       {credit(0), credit(3), credit(UINT64_MAX), reserved, sized,
        FrameHeader{.type = FrameType::kBatch, .size = 1, .number = 0},
        FrameHeader{.type = FrameType::kClose}, FrameHeader{.type = FrameType::kWelcome, .number = 1},
        FrameHeader{.type = FrameType::kInvalid}}) {
    std::unique_ptr<LinkSender> sender;
    ASSERT_NO_FATAL_FAILURE(join(sender));
    say(peer, seal(header));
    EXPECT_EQ(sender->barrier(1).error().code, EPROTO) << "credit " << header.number;
    EXPECT_EQ(sender->acquire(0).error().code, EPROTO);
    EXPECT_TRUE(is_dropped(peer));
  }
}

TEST_P(HostileTargetTest, CreditsThatDoNotGrowEndTheLink) {
  std::unique_ptr<LinkSender> sender;
  ASSERT_NO_FATAL_FAILURE(join(sender));
  say(peer, seal(credit(1)));
  say(peer, seal(credit(1)));
  EXPECT_EQ(sender->barrier(1).error().code, EPROTO);
}

TEST_P(HostileTargetTest, CreditsInPiecesAreCredits) {
  std::unique_ptr<LinkSender> sender;
  ASSERT_NO_FATAL_FAILURE(join(sender));
  Bytes both = seal(credit(1));
  const Bytes second = seal(credit(2));
  both.insert(both.end(), second.begin(), second.end());
  std::thread target([&] {
    for (size_t at = 0; at < both.size(); at += 8) {
      say(peer, std::span(both).subspan(at, 8));
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
  });
  const auto barrier = sender->barrier(1);
  EXPECT_TRUE(barrier) << barrier.error().to_string();
  target.join();
  peer.reset();
}

TEST_P(HostileTargetTest, RandomBytesEndTheLink) {
  for (uint32_t seed = 0; seed < 20; ++seed) {
    std::mt19937 random(seed);
    std::unique_ptr<LinkSender> sender;
    ASSERT_NO_FATAL_FAILURE(join(sender));
    if (seed % 2 == 0) say(peer, seal(credit(1)));
    say(peer, random_bytes(random, 32 + random() % 10'000));
    EXPECT_EQ(sender->barrier(1).error().code, EPROTO) << "seed " << seed;
  }
}

TEST_P(HostileTargetTest, ACutEndsTheLink) {
  for (const size_t length : {size_t{0}, size_t{1}, size_t{31}})
    for (const bool abrupt : {false, true}) {
      std::unique_ptr<LinkSender> sender;
      ASSERT_NO_FATAL_FAILURE(join(sender));
      say(peer, head(seal(credit(2)), length));
      if (abrupt)
        reset_connection(peer);
      else
        peer.reset();
      const int code = sender->barrier(1).error().code;
      EXPECT_TRUE(code == ECONNRESET || code == EPIPE) << code;
    }
}

TEST_P(HostileTargetTest, ASilentTargetEndsTheLinkAtTheDeadline) {
  std::unique_ptr<LinkSender> sender;
  ASSERT_NO_FATAL_FAILURE(join(sender));
  sender->set_deadline_ns(monotonic_ns() + 50'000'000);
  EXPECT_EQ(sender->barrier(1).error().code, ETIMEDOUT);
}

TEST_P(HostileTargetTest, ASilentTargetDoesNotKeepTheSenderFromGoing) {
  std::unique_ptr<LinkSender> sender;
  ASSERT_NO_FATAL_FAILURE(join(sender));
  const int64_t begin_ns = monotonic_ns();
  sender.reset();
  EXPECT_LT(monotonic_ns() - begin_ns, int64_t{kCloseWaitMs + 3000} * 1'000'000);
}

INSTANTIATE_TEST_SUITE_P(Kinds, HostileTargetTest,
                         testing::Values(Kind::kIoUring, Kind::kIoUringZeroCopy, Kind::kSockets),
                         [](const auto& info) { return name_of(info.param); });

}  // namespace
}  // namespace godwit::transport::test
