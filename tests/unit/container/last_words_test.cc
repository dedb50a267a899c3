// What programs say is made one printable line.
#include "runtime/container/last_words.h"

#include <gtest/gtest.h>

namespace godwit::runtime {
namespace {

TEST(LastWords, AreOnePrintableLine) {
  EXPECT_EQ(last_words(""), "");
  EXPECT_EQ(last_words("\n\n"), "");
  EXPECT_EQ(last_words("first\nlast \n\n"), "last");
  EXPECT_EQ(last_words("x\n{\"level\":\"error\",\"msg\":\"it\\nbroke\\u001b[31m\"}\n"), "it broke [31m");
  EXPECT_EQ(last_words("{not json}"), "{not json}");
  EXPECT_EQ(last_words(std::string(10'000, 'a')).size(), 600U);
}

}  // namespace
}  // namespace godwit::runtime
