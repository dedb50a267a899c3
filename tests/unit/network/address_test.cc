#include "runtime/network/address.h"

#include <gtest/gtest.h>

namespace godwit::runtime {
namespace {

TEST(Address, ReadsBothFamilies) {
  const auto v4 = parse_cidr("10.7.0.5/24");
  ASSERT_TRUE(v4.has_value());
  EXPECT_FALSE(v4->is_ipv6);
  EXPECT_EQ(v4->bytes[3], 5);
  EXPECT_EQ(v4->prefix_bits, 24U);
  const auto v6 = parse_cidr("fd00::5/64");
  ASSERT_TRUE(v6.has_value());
  EXPECT_TRUE(v6->is_ipv6);
  EXPECT_EQ(v6->bytes[15], 5);
}

TEST(Address, RefusesWhatIsNotOne) {
  for (const char* text : {"", "10.7.0.5", "10.7.0.5/", "10.7.0.5/33", "10.7.0.5/-1", "10.7.0.5/24 ",
                           "10.7.0/24", "fd00::5/129", "fd00::g/64", "/24", "10.7.0.5/2x"})
    EXPECT_FALSE(parse_cidr(text).has_value()) << text;
  for (const char* text : {"", "02:11:22:33:44", "02:11:22:33:44:5g", "02-11-22-33-44-55",
                           "01:00:5e:00:00:01", "00:00:00:00:00:00", "02:11:22:33:44:55:66"})
    EXPECT_FALSE(parse_mac(text).has_value()) << text;
}

TEST(Address, MacIsTheSameForTheSameAddressAndLocal) {
  const auto one = parse_cidr("10.7.0.5/24");
  const auto other = parse_cidr("fd00::5/64");
  ASSERT_TRUE(one && other);
  EXPECT_EQ(format_mac(derive_mac(*one)), "02:67:0a:07:00:05");
  EXPECT_EQ(derive_mac(*other), derive_mac(*other));
  for (const auto& mac : {derive_mac(*one), derive_mac(*other)}) {
    EXPECT_EQ(mac[0] & 3, 2);
    const auto again = parse_mac(format_mac(mac));
    ASSERT_TRUE(again.has_value());
    EXPECT_EQ(*again, mac);
  }
}

}  // namespace
}  // namespace godwit::runtime
