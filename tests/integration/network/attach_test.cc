#include <fmt/format.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>

#include "runtime/network/interfaces.h"
#include "runtime/network/netlink.h"
#include "tests/integration/network/lab.h"

namespace godwit::runtime {
namespace {

class Attach : public Lab {};

TEST_F(Attach, HeldAddressIsSilentUntilItIsOpenedAndAnnounced) {
  Sniffer sniffer;
  ASSERT_OK(on("b", [&]() -> Result<void> {
    GODWIT_ASSIGN(sniffer, Sniffer::open("uplink"));
    return {};
  }));
  const auto old_place = attach("a", false);
  ASSERT_OK(old_place);
  ASSERT_OK(announce(*old_place));
  const auto mac = parse_mac(old_place->mac);
  ASSERT_TRUE(mac.has_value());
  sleep_ms(1500);  // the old place's own neighbour discovery
  (void)sniffer.count_from(*mac);
  // The old place is alive but quiet: whatever is heard now comes from the new one.
  ASSERT_OK(on("a", [&] { return hold_port(*old_place); }));
  (void)sniffer.count_from(*mac);

  const auto attachment = attach("b", true);
  ASSERT_OK(attachment);
  sleep_ms(3000);  // longer than duplicate address detection, and the first router solicitations
  ASSERT_OK(announce(*attachment));
  EXPECT_EQ(sniffer.count_from(*mac), 0U);

  int64_t open_us = 0;
  int64_t hold_us = 0;
  ASSERT_OK(on("b", [&]() -> Result<void> {
    int64_t start_ns = monotonic_ns();
    GODWIT_TRY(open_port(*attachment));
    open_us = (monotonic_ns() - start_ns) / 1000;
    start_ns = monotonic_ns();
    GODWIT_TRY(hold_port(*attachment));
    hold_us = (monotonic_ns() - start_ns) / 1000;
    return open_port(*attachment);
  }));
  auto announcer = Announcer::prepare(*attachment);
  ASSERT_OK(announcer);
  const int64_t start_ns = monotonic_ns();
  ASSERT_OK(announcer->announce());
  fmt::print("open_port: {} us, hold_port: {} us, announce: {} us\n", open_us, hold_us,
             (monotonic_ns() - start_ns) / 1000);
  sleep_ms(10);
  EXPECT_EQ(sniffer.count_from(*mac), 2U);
}

TEST_F(Attach, HoldOutlastsChangesOfOtherPorts) {
  const auto attachment = attach("b", true);
  ASSERT_OK(attachment);
  const auto mac = parse_mac(attachment->mac);
  ASSERT_TRUE(mac.has_value());
  Sniffer sniffer;
  ASSERT_OK(on("b", [&]() -> Result<void> {
    GODWIT_ASSIGN(sniffer, Sniffer::open("uplink"));
    Network network(directory_ + "/b");
    NetworkSpec other = spec("10.77.0.51/24");
    other.container_id = "other";
    GODWIT_TRY(network.attach(other, false));
    sleep_ms(1200);
    GODWIT_TRY(announce(*attachment));
    return network.detach(other);
  }));
  sleep_ms(1200);
  ASSERT_OK(announce(*attachment));
  EXPECT_EQ(sniffer.count_from(*mac), 0U);
}

TEST_F(Attach, IsRecordedAndRefusedTwice) {
  const auto attachment = attach("a", false);
  ASSERT_OK(attachment);
  const auto again = attach("a", false);
  ASSERT_FALSE(again.has_value());
  EXPECT_EQ(again.error().code, EEXIST);
  const auto found = Network(directory_ + "/a").find("box");
  ASSERT_OK(found);
  EXPECT_EQ(found->host_interface, attachment->host_interface);
  EXPECT_EQ(found->mac, attachment->mac);
  ASSERT_OK(detach("a"));
  ASSERT_OK(detach("a"));
  EXPECT_FALSE(Network(directory_ + "/a").find("box").has_value());
}

TEST_F(Attach, FailureLeavesNothing) {
  ASSERT_OK(on("a", [&]() -> Result<void> {
    Network network(directory_ + "/a", "/nonexistent");
    EXPECT_FALSE(network.attach(spec(), true).has_value());
    NetworkSpec nowhere = spec();
    nowhere.bridge = "nobridge";
    nowhere.mtu = 1500;
    EXPECT_FALSE(Network(directory_ + "/a").attach(nowhere, true).has_value());
    return {};
  }));
  EXPECT_FALSE(Network(directory_ + "/a").find("box").has_value());
  EXPECT_NE(::access((directory_ + "/a/box").c_str(), F_OK), 0);
}

TEST_F(Attach, CarriesIpv6Too) {
  ASSERT_OK(on("a", [&]() -> Result<void> {
    Network network(directory_ + "/a");
    const NetworkSpec wanted = spec("fd77::50/64");
    Sniffer sniffer;
    GODWIT_ASSIGN(sniffer, Sniffer::open("uplink"));
    GODWIT_ASSIGN(const Attachment attachment, network.attach(wanted, false));
    GODWIT_ASSIGN(const MacAddress mac, parse_mac(attachment.mac));
    (void)sniffer.count_from(mac);
    GODWIT_TRY(announce(attachment));
    EXPECT_GE(sniffer.count_from(mac), 1U);
    return network.detach(wanted);
  }));
}

TEST_F(Attach, InterfacesMadeInsideAreForeign) {
  const auto attachment = attach("a", false);
  ASSERT_OK(attachment);
  auto foreign = foreign_interfaces(*attachment);
  ASSERT_OK(foreign);
  EXPECT_EQ(*foreign, std::vector<std::string>{});
  const std::string inside = "nsenter --net=" + attachment->network_namespace + " ip link add ";
  ASSERT_EQ(std::system((inside + "inside0 type veth peer name inside1").c_str()), 0);
  foreign = foreign_interfaces(*attachment);
  ASSERT_OK(foreign);
  EXPECT_EQ(*foreign, (std::vector<std::string>{"inside0", "inside1"}));
}

}  // namespace
}  // namespace godwit::runtime
