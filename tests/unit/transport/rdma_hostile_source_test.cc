// The target's end of an RDMA link against peers that are no source, or a broken or hostile one. Whatever
// they send, the end is an error or a rejection: never a crash, never a wait beyond the deadline.
#include <random>

#include "tests/unit/transport/rdma_raw_peer.h"

namespace godwit::transport::test {
namespace {

constexpr LinkOptions kOptions{.streams = 1, .buffer_bytes = 8192, .buffers_per_stream = 2};

class RdmaHostileSourceTest : public testing::Test {
 protected:
  void SetUp() override {
    if (const auto possible = probe_rdma(); !possible) GTEST_SKIP() << possible.error().to_string();
    const auto places = find_rdma_places();
    ASSERT_TRUE(places) << places.error().to_string();
    auto made = RdmaLinkListener::listen(places->target);
    ASSERT_TRUE(made) << made.error().to_string();
    listener = std::make_unique<RdmaLinkListener>(std::move(*made));
  }
  void TearDown() override {
    if (target.joinable()) target.join();
  }

  void start_accept() {
    target = std::thread([this] { accepted = listener->accept(in_seconds(30)); });
  }
  void finish_accept() {
    target.join();
    ASSERT_TRUE(accepted) << accepted.error().to_string();
    ASSERT_NE(*accepted, nullptr);
    (*accepted)->set_deadline_ns(in_seconds(10));
  }

  [[nodiscard]] RdmaHello good_hello(const LinkOptions& options = kOptions) const {
    return {.token = token_of(listener->token()),
            .streams = options.streams,
            .buffer_bytes = options.buffer_bytes,
            .buffers_per_stream = options.buffers_per_stream};
  }

  // Which reason the target gives for refusing this hello; kInvalid for none.
  [[nodiscard]] RefusalReason refusal_of(const RdmaHello& hello) const {
    RawSource peer(listener->port());
    const auto answer = peer.dial(bytes_of(hello), kOptions);
    EXPECT_TRUE(answer) << answer.error().to_string();
    if (!answer || answer->type != RDMA_CM_EVENT_REJECTED) {
      ADD_FAILURE() << "it was not rejected";
      return RefusalReason::kInvalid;
    }
    return read_refusal(answer->private_data());
  }

  // A peer that has been welcomed as the one stream of a link.
  void join() {
    start_accept();
    peer = std::make_unique<RawSource>(listener->port());
    const auto answer = peer->dial(bytes_of(good_hello()), kOptions);
    ASSERT_TRUE(answer) << answer.error().to_string();
    ASSERT_EQ(answer->type, RDMA_CM_EVENT_ESTABLISHED);
    ASSERT_NO_FATAL_FAILURE(finish_accept());
    const auto read = read_welcome(answer->private_data(), kOptions, "the target");
    ASSERT_TRUE(read) << read.error().to_string();
    ring = *read;
  }

  // A batch as an honest source sends it, but for what the caller changes.
  [[nodiscard]] RawMessage batch(uint8_t slot, uint32_t size) const {
    return {.immediate = pack({.kind = MessageKind::kBatch, .stream = 0, .slot = slot}),
            .size = size,
            .address = ring.address + uint64_t{slot} * ring.slot_stride,
            .rkey = ring.rkey};
  }

  // The code of the error that ends receive(); batches before it are kept.
  int receive_to_the_end() {
    for (;;) {
      auto got = (*accepted)->receive();
      if (!got) return got.error().code;
      if (!got->has_value()) return 0;
    }
  }

  // An honest source still gets its link.
  void expect_service() {
    const auto places = find_rdma_places();
    auto link = connect_rdma_link(places->target, listener->port(), listener->token(), kOptions,
                                  in_seconds(10), places->source);
    ASSERT_TRUE(link) << link.error().to_string();
    ASSERT_NO_FATAL_FAILURE(finish_accept());
    EXPECT_TRUE(send(**link, 0, 100, std::byte{7}));
    auto got = (*accepted)->receive();
    ASSERT_TRUE(got);
    ASSERT_TRUE(got->has_value());
    EXPECT_TRUE((*accepted)->release(**got));
    EXPECT_TRUE((*link)->barrier(1));
  }

  std::unique_ptr<RdmaLinkListener> listener;
  Result<std::unique_ptr<LinkReceiver>> accepted;
  std::thread target;
  std::unique_ptr<RawSource> peer;
  RdmaWelcome ring;
};

TEST_F(RdmaHostileSourceTest, StrangersAreRejectedWithoutAReason) {
  start_accept();
  std::mt19937 random(1);
  for (int i = 0; i < 10; ++i) {
    std::vector<std::byte> noise(random() % 57);
    for (std::byte& each : noise) each = static_cast<std::byte>(random());
    RawSource stranger(listener->port());
    const auto answer = stranger.dial(noise, kOptions);
    ASSERT_TRUE(answer) << answer.error().to_string();
    EXPECT_EQ(answer->type, RDMA_CM_EVENT_REJECTED);
    EXPECT_EQ(read_refusal(answer->private_data()), RefusalReason::kInvalid);
  }
  RdmaHello wrong = good_hello();
  wrong.token.back() ^= std::byte{1};
  EXPECT_EQ(refusal_of(wrong), RefusalReason::kInvalid);
  ASSERT_NO_FATAL_FAILURE(expect_service());
}

TEST_F(RdmaHostileSourceTest, ImpossibleWishesAreRefusedWithTheReason) {
  start_accept();
  RdmaHello hello = good_hello();
  hello.version = 9;
  EXPECT_EQ(refusal_of(hello), RefusalReason::kVersion);
  hello = good_hello();
  hello.streams = kStreamsMax + 1;
  EXPECT_EQ(refusal_of(hello), RefusalReason::kOptions);
  hello = good_hello();
  hello.stream = 1;
  EXPECT_EQ(refusal_of(hello), RefusalReason::kOptions);
  hello = good_hello();
  hello.buffer_bytes = kBufferBytesMax + 1;
  EXPECT_EQ(refusal_of(hello), RefusalReason::kOptions);
  hello = good_hello();
  hello.buffers_per_stream = 0;
  EXPECT_EQ(refusal_of(hello), RefusalReason::kOptions);
  hello = good_hello();
  hello.zero = 1;
  EXPECT_EQ(refusal_of(hello), RefusalReason::kOptions);
  ASSERT_NO_FATAL_FAILURE(expect_service());
}

TEST_F(RdmaHostileSourceTest, StreamsOfOneLinkMustAgree) {
  start_accept();
  LinkOptions two = kOptions;
  two.streams = 2;
  {
    RawSource first(listener->port());
    const auto answer = first.dial(bytes_of(good_hello(two)), two);
    ASSERT_TRUE(answer) << answer.error().to_string();
    ASSERT_EQ(answer->type, RDMA_CM_EVENT_ESTABLISHED);
    EXPECT_EQ(refusal_of(good_hello(two)), RefusalReason::kStreamTaken);
    RdmaHello other = good_hello(two);
    other.stream = 1;
    other.buffer_bytes *= 2;
    EXPECT_EQ(refusal_of(other), RefusalReason::kOptions);
  }
  // It has left before its second stream was there: the next one is not held responsible. Its departure
  // takes a moment to arrive.
  std::this_thread::sleep_for(std::chrono::milliseconds(500));
  ASSERT_NO_FATAL_FAILURE(expect_service());
}

TEST_F(RdmaHostileSourceTest, WrongImmediatesEndTheLink) {
  for (const uint32_t bits : {0U, 0xffffffffU, 0x01000001U, 0x01010000U, 0x01000200U, 0x02000000U,
                              0x03000000U, 0x03000100U, 0x04000000U}) {
    ASSERT_NO_FATAL_FAILURE(join());
    RawMessage message = batch(0, 64);
    message.immediate = ::htonl(bits);
    say(peer->endpoint(), message);
    EXPECT_EQ(receive_to_the_end(), EPROTO) << std::hex << bits;
    accepted->reset();
    peer.reset();
  }
}

TEST_F(RdmaHostileSourceTest, WrongFormsEndTheLink) {
  const auto immediate_of = [](MessageKind kind) { return pack({.kind = kind, .stream = 0, .slot = 0}); };
  for (const RawMessage& message :
       {RawMessage{.opcode = IBV_WR_SEND_WITH_IMM, .immediate = immediate_of(MessageKind::kBatch)},
        RawMessage{.opcode = IBV_WR_SEND},
        RawMessage{
            .opcode = IBV_WR_SEND_WITH_IMM, .immediate = immediate_of(MessageKind::kClose), .size = 64},
        RawMessage{.immediate = immediate_of(MessageKind::kClose)},
        RawMessage{.immediate = immediate_of(MessageKind::kBatch)}}) {
    ASSERT_NO_FATAL_FAILURE(join());
    say(peer->endpoint(), message);
    EXPECT_EQ(receive_to_the_end(), EPROTO) << message.opcode;
    accepted->reset();
    peer.reset();
  }
}

TEST_F(RdmaHostileSourceTest, ABatchLongerThanASlotEndsTheLink) {
  ASSERT_NO_FATAL_FAILURE(join());
  say(peer->endpoint(), batch(0, 8193));
  EXPECT_EQ(receive_to_the_end(), EPROTO);
}

TEST_F(RdmaHostileSourceTest, ASlotThatIsFullMayNotBeFilledAgain) {
  ASSERT_NO_FATAL_FAILURE(join());
  say(peer->endpoint(), batch(1, 64));
  say(peer->endpoint(), batch(1, 64));
  EXPECT_EQ(receive_to_the_end(), EPROTO);
}

TEST_F(RdmaHostileSourceTest, WritesBesideTheRingAreNotLetIn) {
  for (const uint64_t offset : {uint64_t{0} - 4096, uint64_t{2} * 8192, uint64_t{1} << 40}) {
    ASSERT_NO_FATAL_FAILURE(join());
    RawMessage message = batch(0, 64);
    message.address = ring.address + offset;
    say(peer->endpoint(), message);
    EXPECT_NE(receive_to_the_end(), 0);
    accepted->reset();
    peer.reset();
  }
}

TEST_F(RdmaHostileSourceTest, NothingMayComeAfterTheClose) {
  ASSERT_NO_FATAL_FAILURE(join());
  say(peer->endpoint(), batch(0, 64));
  say(peer->endpoint(), {.opcode = IBV_WR_SEND_WITH_IMM,
                         .immediate = pack({.kind = MessageKind::kClose, .stream = 0, .slot = 0})});
  EXPECT_EQ(receive_to_the_end(), 0);
  say(peer->endpoint(), batch(1, 64));
  EXPECT_EQ(receive_to_the_end(), 0);
}

}  // namespace
}  // namespace godwit::transport::test
