// The fixture of link_test.cc.
#pragma once

#include <gtest/gtest.h>

#include <memory>

#include "tests/unit/transport/links.h"

namespace godwit::transport::test {

class LinkTest : public testing::TestWithParam<Kind> {
 protected:
  void SetUp() override {
    if (const auto possible = probe(GetParam()); !possible) GTEST_SKIP() << possible.error().to_string();
  }

  void connect(const LinkOptions& options) {
    auto ends = connect_ends(GetParam(), options);
    ASSERT_TRUE(ends) << ends.error().to_string();
    sender = std::move(ends->sender);
    receiver = std::move(ends->receiver);
  }

  // The next batch, which must come.
  LinkReceiver::Batch take() {
    auto batch = receiver->receive();
    EXPECT_TRUE(batch) << batch.error().to_string();
    if (!batch || !batch->has_value()) {
      ADD_FAILURE() << "no batch";
      return {};
    }
    return **batch;
  }

  std::unique_ptr<LinkSender> sender;
  std::unique_ptr<LinkReceiver> receiver;
};

}  // namespace godwit::transport::test
