// The control connection against peers that send anything at all.
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <unistd.h>

#include <random>
#include <thread>

#include "base/clock.h"
#include "engine/protocol/framing.h"
#include "engine/protocol/peer.h"

namespace godwit::engine {
namespace {

using model::ControlMessage;

struct Pair {
  Fd ours;
  Fd theirs;
};

Pair make_pair() {
  int ends[2];
  EXPECT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
  return {.ours = Fd(ends[0]), .theirs = Fd(ends[1])};
}

TEST(Peer, DeliversAMessage) {
  Pair pair = make_pair();
  Peer peer(std::move(pair.ours), "the other side");
  ControlMessage message;
  message.mutable_round_stored()->set_round(7);
  ASSERT_TRUE(send_message(pair.theirs.get(), message).has_value());
  auto received = peer.expect(ControlMessage::kRoundStored);
  ASSERT_TRUE(received.has_value()) << received.error().to_string();
  EXPECT_EQ(received->round_stored().round(), 7U);
}

TEST(Peer, CarriesTheWordsOfAnAbort) {
  Pair pair = make_pair();
  Peer peer(std::move(pair.ours), "the other side");
  ControlMessage message;
  message.mutable_abort()->set_why("the disk is full");
  ASSERT_TRUE(send_message(pair.theirs.get(), message).has_value());
  const auto checked = peer.check();
  ASSERT_FALSE(checked.has_value());
  EXPECT_NE(checked.error().to_string().find("the disk is full"), std::string::npos);
}

// The source's first probe of the clocks can come before the target has heard that the link is established.
TEST(Peer, KeepsOneMessageThatCameAhead) {
  Pair pair = make_pair();
  Peer peer(std::move(pair.ours), "the other side");
  ASSERT_TRUE(peer.check_ahead().has_value());
  ControlMessage probe;
  probe.mutable_clock_probe();
  ASSERT_TRUE(send_message(pair.theirs.get(), probe).has_value());
  ASSERT_TRUE(peer.check_ahead().has_value());
  ASSERT_TRUE(peer.check_ahead().has_value()) << "it is there no longer";
  ASSERT_TRUE(peer.expect(ControlMessage::kClockProbe).has_value());

  for (int i = 0; i < 2; ++i) ASSERT_TRUE(send_message(pair.theirs.get(), probe).has_value());
  ASSERT_TRUE(peer.check_ahead().has_value());
  const auto second = peer.check_ahead();
  ASSERT_FALSE(second.has_value());
  EXPECT_EQ(second.error().code, EPROTO);
  pair.theirs.reset();
  EXPECT_FALSE(peer.check_ahead().has_value());
}

TEST(Peer, NoticesAClosedConnection) {
  Pair pair = make_pair();
  Peer peer(std::move(pair.ours), "the other side");
  pair.theirs.reset();
  const auto received = peer.expect(ControlMessage::kReady);
  ASSERT_FALSE(received.has_value());
  EXPECT_EQ(received.error().code, ECONNRESET);
}

TEST(Peer, WaitsNoLongerThanTheDeadline) {
  Pair pair = make_pair();
  Peer peer(std::move(pair.ours), "the other side");
  peer.set_deadline_ns(monotonic_ns() + 20'000'000);
  const auto received = peer.receive();
  ASSERT_FALSE(received.has_value());
  EXPECT_EQ(received.error().code, ETIMEDOUT);
}

TEST(Peer, AnInterruptEndsAWait) {
  Pair pair = make_pair();
  Pair bell = make_pair();
  Peer peer(std::move(pair.ours), "the other side");
  peer.interrupt_on(bell.ours.get(), [] { return Result<void>(fail("wait", "test", ECANCELED)); });
  bell.theirs.reset();
  const auto received = peer.receive();
  ASSERT_FALSE(received.has_value());
  EXPECT_EQ(received.error().code, ECANCELED);
}

TEST(Peer, RefusesAnOversizedLength) {
  Pair pair = make_pair();
  Peer peer(std::move(pair.ours), "the other side");
  const uint32_t length = kMessageBytesMax + 1;
  ASSERT_EQ(::send(pair.theirs.get(), &length, sizeof length, 0), static_cast<ssize_t>(sizeof length));
  const auto received = peer.receive();
  ASSERT_FALSE(received.has_value());
  EXPECT_EQ(received.error().code, EPROTO);
}

TEST(Peer, SurvivesNoise) {
  std::mt19937_64 random(3);
  for (int i = 0; i < 2000; ++i) {
    Pair pair = make_pair();
    Peer peer(std::move(pair.ours), "the other side");
    std::string noise(random() % 300, '\0');
    for (char& byte : noise) byte = static_cast<char>(random());
    if (i % 2 == 0 && noise.size() >= 4) {
      const uint32_t length = static_cast<uint32_t>(noise.size() - 4);
      std::memcpy(noise.data(), &length, sizeof length);
    }
    ASSERT_EQ(::send(pair.theirs.get(), noise.data(), noise.size(), MSG_NOSIGNAL),
              static_cast<ssize_t>(noise.size()));
    pair.theirs.reset();
    // Whatever it is, it is an error or some message; never a crash. A Ready by chance has two bytes.
    (void)peer.expect(ControlMessage::kReady);
  }
}

}  // namespace
}  // namespace godwit::engine
