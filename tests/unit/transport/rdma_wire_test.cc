// The messages of an RDMA link, without a device.
#include "transport/rdma/wire.h"

#include <arpa/inet.h>
#include <gtest/gtest.h>

#include <cstring>
#include <vector>

namespace godwit::transport {
namespace {

constexpr LinkOptions kOptions{.streams = 2, .buffer_bytes = 5000, .buffers_per_stream = 3};

LinkToken some_token() {
  LinkToken token{};
  token[3] = std::byte{9};
  return token;
}

RdmaHello good_hello() {
  return {.stream = 1, .token = some_token(), .streams = 2, .buffer_bytes = 5000, .buffers_per_stream = 3};
}

// As InfiniBand delivers it: padded with zeros.
template <typename T>
std::vector<std::byte> padded(const T& message) {
  std::vector<std::byte> bytes(sizeof message + 16);
  std::memcpy(bytes.data(), &message, sizeof message);
  return bytes;
}

TEST(RdmaWireTest, ImmediatesComeBackAndAllOthersAreNone) {
  const auto back = unpack(pack({.kind = MessageKind::kCredit, .stream = 15, .slot = 63}));
  ASSERT_TRUE(back);
  EXPECT_EQ(back->kind, MessageKind::kCredit);
  EXPECT_EQ(back->stream, 15);
  EXPECT_EQ(back->slot, 63);
  EXPECT_TRUE(unpack(pack({.kind = MessageKind::kClose})));
  for (const uint32_t bits : {0U, 0x01000001U, 0x03000100U, 0x04000000U, 0xff000000U})
    EXPECT_FALSE(unpack(::htonl(bits))) << std::hex << bits;
}

TEST(RdmaWireTest, HellosAreForThoseWhoKnowTheToken) {
  const auto bytes = padded(good_hello());
  EXPECT_TRUE(read_rdma_hello(bytes, some_token()));
  EXPECT_FALSE(read_rdma_hello(bytes, LinkToken{}));
  EXPECT_FALSE(read_rdma_hello(std::span(bytes).first(39), some_token()));
  EXPECT_FALSE(read_rdma_hello(std::vector<std::byte>(56), LinkToken{}));
}

TEST(RdmaWireTest, FaultsOfAHelloAreFound) {
  EXPECT_FALSE(find_fault(good_hello()));
  RdmaHello hello = good_hello();
  hello.version = 0;
  EXPECT_EQ(find_fault(hello), RefusalReason::kVersion);
  hello = good_hello();
  hello.stream = 2;
  EXPECT_EQ(find_fault(hello), RefusalReason::kOptions);
  hello = good_hello();
  hello.buffers_per_stream = 65;
  EXPECT_EQ(find_fault(hello), RefusalReason::kOptions);
  hello = good_hello();
  hello.zero = 1;
  EXPECT_EQ(find_fault(hello), RefusalReason::kOptions);
}

TEST(RdmaWireTest, RingsThatCannotBeAreNotBelieved) {
  const RdmaWelcome good{.rkey = 7, .slot_stride = 8192, .address = 4096};
  EXPECT_TRUE(read_welcome(padded(good), kOptions, "the target"));
  RdmaWelcome wrong = good;
  wrong.magic = 0;
  EXPECT_EQ(read_welcome(padded(wrong), kOptions, "the target").error().code, EPROTO);
  wrong = good;
  wrong.slot_stride = 4999;
  EXPECT_FALSE(read_welcome(padded(wrong), kOptions, "the target"));
  wrong = good;
  wrong.address = UINT64_MAX - 3 * 8192 + 1;
  EXPECT_FALSE(read_welcome(padded(wrong), kOptions, "the target"));
  EXPECT_FALSE(read_welcome({}, kOptions, "the target"));
}

TEST(RdmaWireTest, RefusalsHaveAReasonOrNone) {
  EXPECT_EQ(read_refusal(padded(RdmaRefusal{.reason = RefusalReason::kNoMemory})), RefusalReason::kNoMemory);
  EXPECT_EQ(read_refusal({}), RefusalReason::kInvalid);
  EXPECT_EQ(read_refusal(std::vector<std::byte>(148)), RefusalReason::kInvalid);
}

}  // namespace
}  // namespace godwit::transport
