#include "base/socket_address.h"

#include <gtest/gtest.h>

#include "base/clock.h"
#include "base/fd.h"

namespace godwit {
namespace {

TEST(HostPort, IsSplitAtTheLastColon) {
  EXPECT_EQ(parse_host_port("10.0.0.1:7100")->host, "10.0.0.1");
  EXPECT_EQ(parse_host_port("10.0.0.1:7100")->port, 7100);
  EXPECT_EQ(parse_host_port("[fd00::1]:7100")->host, "fd00::1");
  for (const char* text :
       {"", "10.0.0.1", ":7100", "10.0.0.1:", "10.0.0.1:x", "10.0.0.1:65536", "10.0.0.1:1x"})
    EXPECT_FALSE(parse_host_port(text)) << text;
}

TEST(SocketAddress, IsShownAsItIsWritten) {
  EXPECT_EQ(host_and_port_of(*parse_address("10.0.0.1", 7100)), "10.0.0.1:7100");
  EXPECT_EQ(host_and_port_of(*parse_address("fd00::1", 7100)), "[fd00::1]:7100");
  EXPECT_FALSE(parse_address("localhost", 7100));
}

TEST(Connect, SaysWhyItFails) {
  auto place = parse_address("127.0.0.1", 0);
  const Fd taken(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  ASSERT_EQ(::bind(taken.get(), place->get(), place->size), 0);
  ASSERT_EQ(::getsockname(taken.get(), place->get(), &place->size), 0);
  const auto try_it = [&] {
    const Fd socket(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    return connect_until(socket.get(), *place, monotonic_ns() + 10'000'000'000);
  };
  ASSERT_FALSE(try_it());
  EXPECT_EQ(try_it().error().code, ECONNREFUSED);
  ASSERT_EQ(::listen(taken.get(), 4), 0);
  EXPECT_TRUE(try_it());
}

}  // namespace
}  // namespace godwit
