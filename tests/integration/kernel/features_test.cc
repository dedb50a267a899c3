#include "runtime/kernel/features.h"

#include <gtest/gtest.h>

#include <iostream>

namespace godwit::runtime {
namespace {

// A kernel on which the other integration tests pass has what is required.
TEST(Features, FindsWhatThisHostHas) {
  const auto features = probe_features();
  for (const auto& feature : features) {
    std::cout << (feature.present ? "  yes  " : "  no   ") << feature.name << "\n";
    EXPECT_FALSE(feature.needed_for.empty());
    EXPECT_FALSE(feature.remedy.empty());
  }
  for (const auto& name : missing_features(features)) ADD_FAILURE() << name << " is missing";
}

}  // namespace
}  // namespace godwit::runtime
