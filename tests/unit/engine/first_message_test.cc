#include "engine/protocol/first_message.h"

#include <gtest/gtest.h>

namespace godwit::engine {
namespace {

using model::ControlMessage;

ControlMessage hello_message() {
  ControlMessage message;
  message.mutable_hello()->set_session("s");
  message.mutable_hello()->mutable_container()->set_id("c");
  return message;
}

TEST(FirstMessage, IsAHelloOrAnInquiry) {
  const auto hello = parse_first_message(hello_message().SerializeAsString());
  ASSERT_TRUE(hello) << hello.error().to_string();
  EXPECT_EQ(std::get<model::Hello>(*hello).container().id(), "c");
  ControlMessage question;
  question.mutable_inquiry()->set_container("d");
  const auto inquiry = parse_first_message(question.SerializeAsString());
  ASSERT_TRUE(inquiry);
  EXPECT_EQ(std::get<model::Inquiry>(*inquiry).container(), "d");
}

TEST(FirstMessage, IsNothingElse) {
  ControlMessage message;
  EXPECT_FALSE(parse_first_message(message.SerializeAsString()));
  message.mutable_layout()->mutable_snapshot()->add_processes();
  EXPECT_FALSE(parse_first_message(message.SerializeAsString()));
  const std::string two = hello_message().SerializeAsString() + hello_message().SerializeAsString();
  EXPECT_FALSE(parse_first_message(two));
  const std::string whole = hello_message().SerializeAsString();
  for (size_t size = 0; size < whole.size(); ++size)
    EXPECT_FALSE(parse_first_message(std::string_view(whole).substr(0, size))) << size;
  EXPECT_FALSE(parse_first_message(std::string(kFirstMessageBytesMax + 1, '\0')));
}

// A Hello of 60 KiB that is full of what no Hello has: empty groups with a number that nobody uses.
TEST(FirstMessage, KeepsNothingButTheFieldsItKnows) {
  constexpr int kField = 15;
  constexpr char kGroup[] = {kField << 3 | 3, kField << 3 | 4};
  std::string body = hello_message().hello().SerializeAsString();
  while (body.size() < size_t{60} << 10) body.append(kGroup, sizeof kGroup);
  std::string message = {static_cast<char>(ControlMessage::kHello << 3 | 2)};
  for (size_t left = body.size(); left != 0; left >>= 7)
    message += static_cast<char>((left & 0x7f) | (left >> 7 != 0 ? 0x80 : 0));
  const auto parsed = parse_first_message(message + body);
  ASSERT_TRUE(parsed) << parsed.error().to_string();
  EXPECT_EQ(std::get<model::Hello>(*parsed).container().id(), "c");
  EXPECT_LT(std::get<model::Hello>(*parsed).SpaceUsedLong(), 4096U);
}

}  // namespace
}  // namespace godwit::engine
