#include "engine/host/validate.h"

#include <gtest/gtest.h>

namespace godwit::engine {
namespace {

TEST(ValidateHostname, FollowsHostname7) {
  for (const char* name : {"a", "db-1", "db.example"}) EXPECT_TRUE(validate_hostname(name)) << name;
  for (const char* name : {"", "-a", "a-", ".a", "a..b", "a.-b", "a-.b", "a_b", "a\n"})
    EXPECT_FALSE(validate_hostname(name)) << name;
}

TEST(ValidateCidr, WantsAHostsAddress) {
  for (const char* text : {"10.7.0.5/24", "10.7.0.5/32", "10.7.0.4/31", "fd00::5/64"})
    EXPECT_TRUE(validate_cidr(text)) << text;
  for (const char* text : {"10.7.0.5", "10.7.0.0/24", "10.7.0.255/24", "10.7.0.5/33", "10.7.0.5/0",
                           "10.7.0/24", "fd00::/64", "10.7.0.5/2x", "/24", ""})
    EXPECT_FALSE(validate_cidr(text)) << text;
}

TEST(ValidateGateway, LiesInsideTheNetwork) {
  EXPECT_TRUE(validate_gateway("10.7.0.1", "10.7.0.5/24"));
  EXPECT_TRUE(validate_gateway("fd00::1", "fd00::5/64"));
  for (const char* text : {"10.7.1.1", "10.7.0.5", "fd00::1", "x"})
    EXPECT_FALSE(validate_gateway(text, "10.7.0.5/24")) << text;
}

}  // namespace
}  // namespace godwit::engine
