#include "base/identifier.h"

#include <gtest/gtest.h>

namespace godwit {
namespace {

TEST(Identifier, IsANameAndNoPath) {
  for (const std::string name : {"a", "9.x_y", "Redis_1.main-2"})
    EXPECT_TRUE(check_identifier("id", name)) << name;
  for (const std::string name : {"", ".", "..", "-a", "a/b", "a b", "a\n", "\xc3\xa4"})
    EXPECT_FALSE(check_identifier("id", name)) << name;
  EXPECT_FALSE(check_identifier("id", std::string("a\0b", 3)));
}

TEST(Identifier, HasABound) {
  EXPECT_TRUE(check_identifier("id", std::string(64, 'a')));
  EXPECT_FALSE(check_identifier("id", std::string(65, 'a')));
  EXPECT_LT(check_identifier("id", std::string(100'000, '\n')).error().to_string().size(), 300U);
}

}  // namespace
}  // namespace godwit
