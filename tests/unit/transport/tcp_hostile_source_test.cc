// The target's end of a TCP link against peers that are no source, or a broken or hostile one. Whatever they
// send, the end is an error or a drop: never a crash, never a wait beyond the deadline.
#include <gtest/gtest.h>

#include "tests/unit/transport/raw_peer.h"

namespace godwit::transport::test {
namespace {

constexpr LinkOptions kOptions{.streams = 1, .buffer_bytes = 8192, .buffers_per_stream = 2};

FrameHeader batch_header(uint32_t size, uint64_t number) {
  return {.type = FrameType::kBatch, .size = size, .number = number};
}

Bytes batch(uint32_t size, uint64_t number) {
  Bytes bytes = seal(batch_header(size, number));
  bytes.resize(bytes.size() + size, std::byte{0x5a});
  return bytes;
}

class HostileSourceTest : public testing::TestWithParam<Kind> {
 protected:
  void SetUp() override {
    if (const auto possible = probe(GetParam()); !possible) GTEST_SKIP() << possible.error().to_string();
    auto made = TcpLinkListener::listen("127.0.0.1", 0, io_of(GetParam()));
    ASSERT_TRUE(made) << made.error().to_string();
    listener = std::make_unique<TcpLinkListener>(std::move(*made));
  }

  void TearDown() override {
    if (target.joinable()) target.join();
  }

  void start_accept() {
    target = std::thread([this] { accepted = listener->accept(in_seconds(15)); });
  }

  void finish_accept() {
    target.join();
    ASSERT_TRUE(accepted) << accepted.error().to_string();
    ASSERT_NE(*accepted, nullptr);
    (*accepted)->set_deadline_ns(in_seconds(10));
  }

  [[nodiscard]] Fd dial() const {
    auto socket = connect_tcp("127.0.0.1", listener->port(), in_seconds(5));
    EXPECT_TRUE(socket) << socket.error().to_string();
    return socket ? std::move(*socket) : Fd();
  }

  [[nodiscard]] Hello good_hello(uint16_t stream = 0, const LinkOptions& options = kOptions) const {
    return {.stream = stream,
            .token = token_of(listener->token()),
            .streams = options.streams,
            .buffer_bytes = options.buffer_bytes,
            .buffers_per_stream = options.buffers_per_stream};
  }

  // A peer that has been welcomed as the one stream of a link.
  void join(Fd& peer) {
    start_accept();
    peer = dial();
    say(peer, seal_hello(good_hello()));
    ASSERT_NO_FATAL_FAILURE(finish_accept());
    const auto welcome = hear(peer);
    ASSERT_TRUE(welcome) << welcome.error().to_string();
    ASSERT_EQ(welcome->type, FrameType::kWelcome);
  }

  // The error that ends receive(); batches before it are given back.
  Error receive_to_the_end() {
    for (;;) {
      auto got = (*accepted)->receive();
      if (!got) return got.error();
      if (!got->has_value()) return {};
      static_cast<void>((*accepted)->release(**got));
    }
  }

  // An honest source still gets its link.
  void expect_service() {
    auto link = connect_tcp_link("127.0.0.1", listener->port(), listener->token(), kOptions, in_seconds(10),
                                 io_of(GetParam()));
    ASSERT_NO_FATAL_FAILURE(finish_accept());
    ASSERT_TRUE(link) << link.error().to_string();
    EXPECT_TRUE(send(**link, 0, 100, std::byte{7}));
    auto got = (*accepted)->receive();
    ASSERT_TRUE(got);
    ASSERT_TRUE(got->has_value());
    EXPECT_TRUE((*accepted)->release(**got));
    EXPECT_TRUE((*link)->barrier(1));
    accepted->reset();
  }

  std::unique_ptr<TcpLinkListener> listener;
  Result<std::unique_ptr<LinkReceiver>> accepted;
  std::thread target;
};

TEST_P(HostileSourceTest, RandomBytesInsteadOfAHelloAreDropped) {
  start_accept();
  std::mt19937 random(1);
  std::vector<Fd> open;
  for (int i = 0; i < 100; ++i) {
    Fd peer = dial();
    say(peer, random_bytes(random, random() % 200));
    if (i % 3 == 0) open.push_back(std::move(peer));
    if (i % 3 == 1) reset_connection(peer);
  }
  ASSERT_NO_FATAL_FAILURE(expect_service());
}

TEST_P(HostileSourceTest, HellosWithOneWrongBitAreDropped) {
  start_accept();
  const Bytes good = seal_hello(good_hello());
  for (size_t at = 0; at < good.size(); ++at) {
    Bytes wrong = good;
    wrong[at] ^= static_cast<std::byte>(1U << (at % 8));
    Fd peer = dial();
    say(peer, wrong);
    EXPECT_TRUE(is_dropped(peer)) << "byte " << at;
  }
  ASSERT_NO_FATAL_FAILURE(expect_service());
}

TEST_P(HostileSourceTest, AWrongTokenGetsNoAnswer) {
  start_accept();
  Hello hello = good_hello();
  hello.token.back() ^= std::byte{1};
  const Fd peer = dial();
  say(peer, seal_hello(hello));
  EXPECT_EQ(hear(peer).error().code, ECONNRESET);
  ASSERT_NO_FATAL_FAILURE(expect_service());
}

TEST_P(HostileSourceTest, ImpossibleWishesAreRefusedWithTheReason) {
  start_accept();
  const auto refusal_of = [&](const Hello& hello) {
    const Fd peer = dial();
    say(peer, seal_hello(hello));
    const auto answer = hear(peer);
    EXPECT_TRUE(answer && answer->type == FrameType::kRefused);
    return answer ? static_cast<RefusalReason>(answer->number) : RefusalReason::kInvalid;
  };
  const auto spoil = [&](auto change) {
    Hello hello = good_hello();
    change(hello);
    return hello;
  };
  EXPECT_EQ(refusal_of(spoil([](Hello& hello) { hello.version = 2; })), RefusalReason::kVersion);
  for (const Hello& hello :
       {spoil([](Hello& each) { each.streams = 0; }), spoil([](Hello& each) { each.streams = UINT32_MAX; }),
        spoil([](Hello& each) { each.stream = 1; }), spoil([](Hello& each) { each.stream = UINT16_MAX; }),
        spoil([](Hello& each) { each.buffer_bytes = 0; }),
        spoil([](Hello& each) { each.buffer_bytes = UINT32_MAX; }),
        spoil([](Hello& each) { each.buffers_per_stream = 0; }),
        spoil([](Hello& each) { each.buffers_per_stream = UINT32_MAX; }),
        spoil([](Hello& each) { each.zero.back() = 1; })})
    EXPECT_EQ(refusal_of(hello), RefusalReason::kOptions);
  ASSERT_NO_FATAL_FAILURE(expect_service());
}

TEST_P(HostileSourceTest, ASecondConnectionForAStreamIsRefusedAndTheFirstIsKept) {
  constexpr LinkOptions kTwo{.streams = 2, .buffer_bytes = 8192, .buffers_per_stream = 2};
  start_accept();
  const Fd first = dial();
  say(first, seal_hello(good_hello(0, kTwo)));
  const Fd again = dial();
  say(again, seal_hello(good_hello(0, kTwo)));
  const auto answer = hear(again);
  ASSERT_TRUE(answer) << answer.error().to_string();
  EXPECT_EQ(answer->type, FrameType::kRefused);
  EXPECT_EQ(answer->number, static_cast<uint64_t>(RefusalReason::kStreamTaken));
  const Fd other = dial();
  say(other, seal_hello(good_hello(0, kOptions)));
  const auto differs = hear(other);
  ASSERT_TRUE(differs) << differs.error().to_string();
  EXPECT_EQ(differs->number, static_cast<uint64_t>(RefusalReason::kOptions));
  const Fd second = dial();
  say(second, seal_hello(good_hello(1, kTwo)));
  ASSERT_NO_FATAL_FAILURE(finish_accept());
  EXPECT_EQ(hear(first)->type, FrameType::kWelcome);
  EXPECT_EQ(hear(second)->type, FrameType::kWelcome);
}

TEST_P(HostileSourceTest, ASlowHelloIsDroppedAndDoesNotKeepOthersWaiting) {
  start_accept();
  const Fd slow = dial();
  say(slow, head(seal_hello(good_hello()), 63));
  EXPECT_TRUE(is_dropped(slow));
  std::vector<Fd> silent;
  silent.reserve(80);
  for (int i = 0; i < 80; ++i) silent.push_back(dial());
  ASSERT_NO_FATAL_FAILURE(expect_service());
}

TEST_P(HostileSourceTest, HeadersWithOneWrongBitEndTheLink) {
  const Bytes good = batch(64, 0);
  for (size_t at = 0; at < sizeof(FrameHeader); ++at) {
    Fd peer;
    ASSERT_NO_FATAL_FAILURE(join(peer));
    Bytes wrong = good;
    wrong[at] ^= static_cast<std::byte>(1U << (at % 8));
    say(peer, wrong);
    EXPECT_EQ(receive_to_the_end().code, EPROTO) << "byte " << at;
    EXPECT_TRUE(is_dropped(peer));
  }
}

TEST_P(HostileSourceTest, ValidFramesAtTheWrongTimeEndTheLink) {
  FrameHeader reserved = batch_header(64, 0);
  reserved.zero = 1;
  FrameHeader magic = batch_header(64, 0);
  magic.magic = Hello::kMagic;
  const auto bare = [](FrameType type, uint64_t number) {
    return FrameHeader{.type = type, .number = number};
  };
  for (const FrameHeader& header :
       {bare(FrameType::kInvalid, 0), bare(FrameType::kCredit, 1), bare(FrameType::kWelcome, 1),
        bare(FrameType::kRefused, 1), bare(static_cast<FrameType>(6), 0),
        bare(static_cast<FrameType>(UINT32_MAX), 0), bare(FrameType::kClose, 1),
        bare(FrameType::kClose, UINT64_MAX), FrameHeader{.type = FrameType::kClose, .size = 8, .number = 0},
        batch_header(0, 0), batch_header(kOptions.buffer_bytes + 1, 0), batch_header(UINT32_MAX, 0),
        batch_header(64, 1), batch_header(64, UINT64_MAX), reserved, magic}) {
    Fd peer;
    ASSERT_NO_FATAL_FAILURE(join(peer));
    say(peer, seal(header));
    EXPECT_EQ(receive_to_the_end().code, EPROTO)
        << "type " << static_cast<uint32_t>(header.type) << " size " << header.size;
    EXPECT_TRUE(is_dropped(peer));
  }
}

TEST_P(HostileSourceTest, MoreBatchesThanCreditsEndTheLink) {
  Fd peer;
  ASSERT_NO_FATAL_FAILURE(join(peer));
  for (uint64_t i = 0; i <= kOptions.buffers_per_stream; ++i) say(peer, batch(64, i));
  for (uint32_t i = 0; i < kOptions.buffers_per_stream; ++i) EXPECT_TRUE((*accepted)->receive());
  EXPECT_EQ((*accepted)->receive().error().code, EPROTO);
}

TEST_P(HostileSourceTest, RandomBytesAfterTheWelcomeEndTheLink) {
  for (uint32_t seed = 0; seed < 20; ++seed) {
    std::mt19937 random(seed);
    Fd peer;
    ASSERT_NO_FATAL_FAILURE(join(peer));
    if (seed % 2 == 0) say(peer, batch(100, 0));
    say(peer, random_bytes(random, 32 + random() % 20'000));
    EXPECT_EQ(receive_to_the_end().code, EPROTO) << "seed " << seed;
  }
}

TEST_P(HostileSourceTest, ACutAnywhereInABatchEndsTheLink) {
  const Bytes whole = batch(4096, 0);
  for (const size_t length : {size_t{0}, size_t{1}, size_t{31}, size_t{32}, size_t{33}, whole.size() - 1})
    for (const bool abrupt : {false, true}) {
      Fd peer;
      ASSERT_NO_FATAL_FAILURE(join(peer));
      say(peer, head(whole, length));
      if (abrupt)
        reset_connection(peer);
      else
        peer.reset();
      EXPECT_EQ(receive_to_the_end().code, ECONNRESET) << length << " bytes" << (abrupt ? ", reset" : "");
    }
}

TEST_P(HostileSourceTest, AStallInABatchEndsAtTheDeadline) {
  Fd peer;
  ASSERT_NO_FATAL_FAILURE(join(peer));
  say(peer, head(batch(4096, 0), 1000));
  (*accepted)->set_deadline_ns(monotonic_ns() + 50'000'000);
  EXPECT_EQ(receive_to_the_end().code, ETIMEDOUT);
}

TEST_P(HostileSourceTest, CancelEndsAStallInABatch) {
  Fd peer;
  ASSERT_NO_FATAL_FAILURE(join(peer));
  say(peer, head(batch(4096, 0), 1000));
  (*accepted)->set_deadline_ns(0);
  std::thread canceller([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
    (*accepted)->cancel();
  });
  EXPECT_EQ(receive_to_the_end().code, ECANCELED);
  canceller.join();
}

TEST_P(HostileSourceTest, WhatFollowsAnOrderlyCloseIsNotRead) {
  std::mt19937 random(1);
  Fd peer;
  ASSERT_NO_FATAL_FAILURE(join(peer));
  say(peer, batch(64, 0));
  say(peer, seal({.type = FrameType::kClose, .number = 1}));
  say(peer, random_bytes(random, 1000));
  EXPECT_EQ(receive_to_the_end().code, 0);
  const auto again = (*accepted)->receive();
  ASSERT_TRUE(again) << again.error().to_string();
  EXPECT_FALSE(again->has_value());
}

INSTANTIATE_TEST_SUITE_P(Kinds, HostileSourceTest, testing::Values(Kind::kIoUring, Kind::kSockets),
                         [](const auto& info) { return name_of(info.param); });

}  // namespace
}  // namespace godwit::transport::test
