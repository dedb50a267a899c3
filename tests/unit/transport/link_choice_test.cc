// Which link is taken, and what is said about it. What needs an RDMA device is skipped where there is none,
// and the other way round.
#include "transport/link_choice.h"

#include <gtest/gtest.h>

#include <atomic>
#include <thread>

#include "tests/unit/transport/raw_peer.h"

namespace godwit::transport::test {
namespace {

constexpr LinkOptions kOptions{.streams = 1, .buffer_bytes = 8192, .buffers_per_stream = 2};
const LinkPlace kHere{.address = "127.0.0.1", .rdma = "off"};

LinkListener listen(TransportWish wish, const LinkPlace& place = kHere) {
  auto made = LinkListener::listen(place, wish);
  EXPECT_TRUE(made) << made.error().to_string();
  return *std::move(made);
}

// Both ends, or the source's error.
Result<ChosenLink> choose(LinkListener& listener, const std::vector<LinkOffer>& offers, TransportWish wish,
                          const LinkPlace& local = kHere) {
  Result<ChosenLink> chosen;
  std::atomic<bool> over = false;
  std::thread source([&] {
    chosen = connect_link(offers, wish, "127.0.0.1", local, kOptions, in_seconds(5));
    over = true;
  });
  std::unique_ptr<LinkReceiver> receiver;
  // A source may be content a moment before its target is.
  const int64_t patience_ns = in_seconds(7);
  while (!over || (chosen && !receiver && monotonic_ns() < patience_ns)) {
    auto link = listener.try_accept();
    EXPECT_TRUE(link) << link.error().to_string();
    if (link && *link) receiver = std::move(*link);
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  source.join();
  EXPECT_EQ(receiver != nullptr, chosen.has_value());
  if (chosen && receiver) {
    EXPECT_TRUE(send(*chosen->link, 0, 100, std::byte{1}));
  }
  return chosen;
}

TEST(LinkChoiceTest, NamesOfTransports) {
  EXPECT_EQ(*parse_transport(""), TransportWish::kAuto);
  EXPECT_EQ(*parse_transport("auto"), TransportWish::kAuto);
  EXPECT_EQ(*parse_transport("tcp"), TransportWish::kTcp);
  EXPECT_EQ(*parse_transport("rdma"), TransportWish::kRdma);
  EXPECT_FALSE(parse_transport("RDMA"));
}

TEST(LinkChoiceTest, AutoFallsBackToTcpAndSaysWhy) {
  LinkListener listener = listen(TransportWish::kAuto);
  const auto chosen = choose(listener, listener.offers(), TransportWish::kAuto);
  ASSERT_TRUE(chosen) << chosen.error().to_string();
  EXPECT_TRUE(std::string(chosen->link->name()).starts_with("tcp+"));
  EXPECT_EQ(chosen->why, "RDMA does not work here: use RDMA on this host: its agent runs with --rdma off");
}

TEST(LinkChoiceTest, TcpThatWasAskedForIsNotExcused) {
  LinkListener listener = listen(TransportWish::kTcp);
  ASSERT_EQ(listener.offers().size(), 1U);
  const auto chosen = choose(listener, listener.offers(), TransportWish::kTcp);
  ASSERT_TRUE(chosen) << chosen.error().to_string();
  EXPECT_EQ(chosen->why, "it was asked for");
}

TEST(LinkChoiceTest, RdmaAloneFailsWithTheReason) {
  EXPECT_FALSE(LinkListener::listen(kHere, TransportWish::kRdma));
  LinkListener listener = listen(TransportWish::kAuto);
  const auto chosen = choose(listener, listener.offers(), TransportWish::kRdma);
  ASSERT_FALSE(chosen);
  EXPECT_EQ(chosen.error().to_string(), "use RDMA on this host: its agent runs with --rdma off");
}

TEST(LinkChoiceTest, AHostWithoutADeviceSaysSo) {
  if (probe_rdma()) GTEST_SKIP() << "this host has one";
  LinkListener listener = listen(TransportWish::kAuto, {.address = "127.0.0.1", .rdma = "auto"});
  ASSERT_EQ(listener.offers().size(), 2U);
  EXPECT_EQ(listener.offers()[1].transport, "rdma");
  EXPECT_FALSE(listener.offers()[1].absent.empty());
  const auto chosen = choose(listener, listener.offers(), TransportWish::kAuto, {.address = {}, .rdma = {}});
  ASSERT_TRUE(chosen) << chosen.error().to_string();
  EXPECT_TRUE(chosen->why.starts_with("RDMA does not work here: ")) << chosen->why;
}

TEST(LinkChoiceTest, AutoTakesRdmaWhereBothHaveIt) {
  if (const auto possible = probe_rdma(); !possible) GTEST_SKIP() << possible.error().to_string();
  const auto places = find_rdma_places();
  ASSERT_TRUE(places) << places.error().to_string();
  // By name at the target, by address at the source.
  std::string device;
  for (const RdmaDevice& each : list_rdma_devices())
    if (device.empty() && each.usable) device = each.name;
  LinkListener listener = listen(TransportWish::kAuto, {.address = "127.0.0.1", .rdma = device});
  const auto chosen =
      choose(listener, listener.offers(), TransportWish::kAuto, {.address = {}, .rdma = places->source});
  ASSERT_TRUE(chosen) << chosen.error().to_string();
  EXPECT_TRUE(std::string(chosen->link->name()).starts_with("rdma+"));
  EXPECT_TRUE(chosen->why.starts_with("both hosts have RDMA: ")) << chosen->why;
}

// The offer is there, and nobody listens: a stranger's port.
TEST(LinkChoiceTest, AutoGoesOnToTcpWhenRdmaDoesNotConnect) {
  if (const auto possible = probe_rdma(); !possible) GTEST_SKIP() << possible.error().to_string();
  const auto places = find_rdma_places();
  ASSERT_TRUE(places) << places.error().to_string();
  LinkListener listener = listen(TransportWish::kAuto, {.address = "127.0.0.1", .rdma = places->target});
  std::vector<LinkOffer> offers = listener.offers();
  ASSERT_EQ(offers.size(), 2U);
  offers[1].port = 1;
  const auto chosen = choose(listener, offers, TransportWish::kAuto, {.address = {}, .rdma = places->source});
  ASSERT_TRUE(chosen) << chosen.error().to_string();
  EXPECT_TRUE(std::string(chosen->link->name()).starts_with("tcp+"));
  EXPECT_NE(chosen->why.find("nobody listens there"), std::string::npos) << chosen->why;
}

TEST(LinkChoiceTest, OffersThatMakeNoSenseAreNotTaken) {
  LinkListener listener = listen(TransportWish::kTcp);
  EXPECT_FALSE(choose(listener, {}, TransportWish::kTcp));
  std::vector<LinkOffer> offers = listener.offers();
  offers[0].port = 65536 + 22;
  EXPECT_EQ(choose(listener, offers, TransportWish::kTcp).error().code, EPROTO);
  offers = listener.offers();
  offers[0].token = "short";
  EXPECT_EQ(choose(listener, offers, TransportWish::kTcp).error().code, EINVAL);
  offers = listener.offers();
  offers[0].absent = "it is Sunday";
  EXPECT_EQ(choose(listener, offers, TransportWish::kTcp).error().hint, "it has none: it is Sunday");
}

// Who connects and says nothing neither is the link nor keeps it from coming.
TEST(LinkChoiceTest, AStrangerHoldsNothingUp) {
  LinkListener listener = listen(TransportWish::kTcp);
  auto stranger = connect_tcp("127.0.0.1", static_cast<uint16_t>(listener.offers()[0].port), in_seconds(5));
  ASSERT_TRUE(stranger);
  const auto none = listener.try_accept();
  ASSERT_TRUE(none);
  EXPECT_EQ(*none, nullptr);
  EXPECT_TRUE(choose(listener, listener.offers(), TransportWish::kTcp));
}

}  // namespace
}  // namespace godwit::transport::test
