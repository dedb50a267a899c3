#include "runtime/network/unheld_connections.h"

#include <arpa/inet.h>
#include <fmt/format.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include "runtime/network/namespace.h"
#include "runtime/network/parking.h"
#include "tests/integration/network/lab.h"

namespace godwit::runtime {
namespace {

class UnheldConnectionsTest : public Lab {
 protected:
  static constexpr int64_t kPatienceNs = 10'000'000'000;

  void SetUp() override {
    Lab::SetUp();
    auto attachment = attach("a", false);
    ASSERT_OK(attachment);
    attachment_ = *attachment;
    address_.sin_family = AF_INET;
    address_.sin_port = htons(kPort + 1);
    ::inet_pton(AF_INET, kContainerAddress, &address_.sin_addr);
    ASSERT_OK(run_in_network_namespace(attachment_.network_namespace, [&]() -> Result<void> {
      listener_ = Fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
      if (::bind(listener_.get(), reinterpret_cast<const sockaddr*>(&address_), sizeof address_) != 0 ||
          ::listen(listener_.get(), 8) != 0)
        return fail("listen", "in the container");
      return {};
    }));
  }
  Result<Fd> connect_client(int receive_room) {
    Fd client;
    GODWIT_TRY(run_in_network_namespace(place("client"), [&]() -> Result<void> {
      client = Fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
      ::setsockopt(client.get(), SOL_SOCKET, SO_RCVBUF, &receive_room, sizeof receive_room);
      if (::connect(client.get(), reinterpret_cast<const sockaddr*>(&address_), sizeof address_) != 0)
        return fail("connect", "to the container");
      return {};
    }));
    return client;
  }
  // Until `wanted` holds, for ten seconds at most; the last look is returned.
  static Result<UnheldConnections> look_until(ConnectionWatch& watch,
                                              const std::function<bool(const UnheldConnections&)>& wanted) {
    const int64_t end_ns = monotonic_ns() + kPatienceNs;
    for (;;) {
      GODWIT_ASSIGN(auto found, watch.look());
      if (wanted(found) || monotonic_ns() > end_ns) return found;
      sleep_ms(1);
    }
  }

  Attachment attachment_;
  sockaddr_in address_{};
  Fd listener_;
};

TEST_F(UnheldConnectionsTest, AConnectionIsUnheldUntilItIsAccepted) {
  auto watch = ConnectionWatch::open(attachment_.network_namespace);
  ASSERT_OK(watch);
  const int64_t start_ns = monotonic_ns();
  auto found = watch->look();
  fmt::print("look: {:.1f} us\n", static_cast<double>(monotonic_ns() - start_ns) / 1000);
  ASSERT_OK(found);
  EXPECT_EQ(found->unaccepted + found->closing + found->handshakes, 0U);
  const auto first = connect_client(1 << 16);
  const auto second = connect_client(1 << 16);
  ASSERT_OK(first);
  ASSERT_OK(second);
  found = look_until(*watch, [](const auto& now) { return now.unaccepted == 2; });
  ASSERT_OK(found);
  EXPECT_EQ(found->unaccepted, 2U);
  EXPECT_EQ(found->unaccepted_at, "port 7001");
  const Fd accepted(::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC));
  const Fd other(::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC));
  found = watch->look();
  ASSERT_OK(found);
  EXPECT_EQ(found->unaccepted, 0U);
}

TEST_F(UnheldConnectionsTest, AClosedConnectionIsUnheldUntilAllIsSent) {
  auto watch = ConnectionWatch::open(attachment_.network_namespace);
  ASSERT_OK(watch);
  const auto client = connect_client(4096);
  ASSERT_OK(client);
  std::string body(200'000, 'x');
  {
    const Fd accepted(::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC));
    const int room = 1 << 20;
    ::setsockopt(accepted.get(), SOL_SOCKET, SO_SNDBUFFORCE, &room, sizeof room);
    ASSERT_EQ(::send(accepted.get(), body.data(), body.size(), 0), static_cast<ssize_t>(body.size()));
    ::shutdown(accepted.get(), SHUT_WR);
    // Half closed it is still in the program's hands.
    const auto found = watch->look();
    ASSERT_OK(found);
    EXPECT_EQ(found->closing, 0U);
  }
  auto found = watch->look();
  ASSERT_OK(found);
  EXPECT_EQ(found->closing, 1U);
  EXPECT_TRUE(found->closing_at.starts_with("port 7001 to 10.77.0.")) << found->closing_at;
  size_t got = 0;
  for (ssize_t part = 1; part > 0; got += static_cast<size_t>(part))
    part = ::recv(client->get(), body.data(), body.size(), 0);
  EXPECT_EQ(got, body.size());
  found = look_until(*watch, [](const auto& now) { return now.closing == 0; });
  ASSERT_OK(found);
  EXPECT_EQ(found->closing, 0U);
}

// Nobody can be made to wait for a client that is not there any more.
TEST_F(UnheldConnectionsTest, ASilentPeerIsNotWaitedFor) {
  auto watch = ConnectionWatch::open(attachment_.network_namespace);
  ASSERT_OK(watch);
  const auto client = connect_client(1 << 16);
  ASSERT_OK(client);
  auto lot = [&] {
    Result<std::unique_ptr<ParkingLot>> made;
    (void)on("a", [&]() -> Result<void> {
      made = ParkingLot::prepare(attachment_);
      return {};
    });
    return made;
  }();
  ASSERT_OK(lot);
  Fd accepted(::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC));
  ASSERT_OK((*lot)->park());
  ASSERT_EQ(::send(accepted.get(), "x", 1, 0), 1);
  accepted.reset();
  auto found = watch->look();
  ASSERT_OK(found);
  EXPECT_EQ(found->closing, 1U);
  found = look_until(*watch, [](const auto& now) { return now.closing == 0; });
  ASSERT_OK(found);
  EXPECT_EQ(found->closing, 0U) << "waited for a peer that does not answer";
}

}  // namespace
}  // namespace godwit::runtime
