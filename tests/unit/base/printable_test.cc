#include "base/printable.h"

#include <gtest/gtest.h>

namespace godwit {
namespace {

TEST(Printable, LeavesNothingThatDrivesATerminal) {
  EXPECT_EQ(printable("a\x1b[2Jb\nc\x7f"), "a [2Jb c ");
  EXPECT_EQ(printable("Größe"), "Größe");
  EXPECT_EQ(printable(""), "");
}

}  // namespace
}  // namespace godwit
