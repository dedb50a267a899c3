// Messages of this version and of earlier ones, as they came over the wire, kept in data/ (README there):
// what was sent once has to be understood, or refused in words, for as long as it may come.
#include <gtest/gtest.h>

#include <string>

#include "base/fd.h"
#include "engine/protocol/first_message.h"
#include "engine/protocol/version.h"

namespace godwit::engine {
namespace {

using model::ControlMessage;

static_assert(kProtocolVersionLeast >= 4, "version 3 knew no incarnations");
static_assert(kProtocolVersionLeast <= kProtocolVersion && kProtocolVersion - kProtocolVersionLeast <= 1,
              "this version and the one before it are spoken, and no other");
static_assert(is_spoken(kProtocolVersion) && is_spoken(kProtocolVersionLeast));
static_assert(!is_spoken(kProtocolVersionLeast - 1) && !is_spoken(kProtocolVersion + 1) && !is_spoken(0));

std::string kept(const std::string& name) {
  const std::string path = std::string(GODWIT_SOURCE_ROOT "/tests/unit/engine/data/") + name;
  const auto bytes = read_file(path);
  EXPECT_TRUE(bytes) << bytes.error().to_string();
  return bytes.value_or("");
}

TEST(KeptBytes, AHelloOfVersion3IsReadFarEnoughToBeRefused) {
  const auto message = parse_first_message(kept("v3_hello.bin"));
  ASSERT_TRUE(message) << message.error().to_string();
  EXPECT_EQ(std::get<model::Hello>(*message).version(), 3U);
  EXPECT_FALSE(is_spoken(std::get<model::Hello>(*message).version()));
}

TEST(KeptBytes, AHelloOfVersion4IsUnderstood) {
  const auto message = parse_first_message(kept("v4_hello.bin"));
  ASSERT_TRUE(message) << message.error().to_string();
  const auto& hello = std::get<model::Hello>(*message);
  EXPECT_EQ(hello.version(), 4U);
  EXPECT_EQ(hello.session(), "0123456789abcdef");
  EXPECT_EQ(hello.source_name(), "a");
  EXPECT_EQ(hello.container().id(), "db");
  EXPECT_EQ(hello.container().address(), "10.77.0.5/24");
  EXPECT_EQ(hello.container().uid(), "00112233445566778899aabbccddeeff");
  EXPECT_EQ(hello.container().incarnation(), 7U);
  EXPECT_EQ(hello.memory_bytes(), 1U << 20);
  EXPECT_EQ(hello.goals().deadline_ms(), 30000U);
  EXPECT_EQ(hello.streams(), 2U);
  EXPECT_EQ(hello.buffer_bytes(), 1U << 20);
  ASSERT_EQ(hello.source_agents_size(), 1);
  EXPECT_EQ(hello.source_agents(0), "10.77.0.1:7100");
}

TEST(KeptBytes, AnInquiryOfVersion4IsUnderstood) {
  const auto message = parse_first_message(kept("v4_inquiry.bin"));
  ASSERT_TRUE(message) << message.error().to_string();
  const auto& inquiry = std::get<model::Inquiry>(*message);
  EXPECT_EQ(inquiry.session(), "0123456789abcdef");
  EXPECT_EQ(inquiry.container(), "db");
  EXPECT_EQ(inquiry.uid(), "00112233445566778899aabbccddeeff");
  EXPECT_EQ(inquiry.incarnation(), 7U);
  EXPECT_EQ(inquiry.side(), "target");
  EXPECT_EQ(inquiry.state(), "may-run");
}

TEST(KeptBytes, AnAnswerOfVersion4IsUnderstood) {
  ControlMessage message;
  ASSERT_TRUE(message.ParseFromString(kept("v4_answer.bin")));
  ASSERT_TRUE(message.has_answer());
  EXPECT_EQ(message.answer().evidence(), model::Answer::EVIDENCE_COMMITTED);
  EXPECT_EQ(message.answer().state(), "departed");
}

// All versions have to be able to read why they are refused.
TEST(KeptBytes, ARefusalIsWhatVersion3Reads) {
  ControlMessage refusal;
  refusal.mutable_refusal()->set_why("why");
  EXPECT_EQ(refusal.SerializeAsString(), kept("v3_refusal.bin"));
}

}  // namespace
}  // namespace godwit::engine
