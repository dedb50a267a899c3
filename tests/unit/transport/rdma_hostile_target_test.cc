// The source's end of an RDMA link against targets that are broken or hostile, and against hosts that lack
// something.
#include <linux/capability.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "tests/unit/transport/rdma_raw_peer.h"

namespace godwit::transport::test {
namespace {

constexpr LinkOptions kOptions{.streams = 1, .buffer_bytes = 8192, .buffers_per_stream = 2};
const std::string kToken(kTokenBytes, 't');

class RdmaHostileTargetTest : public testing::Test {
 protected:
  void SetUp() override {
    if (const auto possible = probe_rdma(); !possible) GTEST_SKIP() << possible.error().to_string();
    const auto found = find_rdma_places();
    ASSERT_TRUE(found) << found.error().to_string();
    places = *found;
    target = std::make_unique<RawTarget>();
  }
  void TearDown() override {
    if (source.joinable()) source.join();
  }

  void start_connect() {
    source = std::thread([this] {
      link =
          connect_rdma_link(places.target, target->port(), kToken, kOptions, in_seconds(10), places.source);
    });
    const auto taken = target->take_request(kOptions);
    ASSERT_TRUE(taken) << taken.error().to_string();
  }
  // A link that the source believes in.
  void join(const RdmaWelcome& welcome) {
    target->accept(bytes_of(welcome));
    source.join();
    ASSERT_TRUE(link) << link.error().to_string();
    (*link)->set_deadline_ns(in_seconds(10));
  }
  void join() {
    ASSERT_NO_FATAL_FAILURE(start_connect());
    join(target->good_welcome());
  }
  int connect_code() {
    source.join();
    return link ? 0 : link.error().code;
  }

  RdmaPlaces places;
  std::unique_ptr<RawTarget> target;
  Result<std::unique_ptr<LinkSender>> link;
  std::thread source;
};

TEST_F(RdmaHostileTargetTest, RejectionsAreExplained) {
  ASSERT_NO_FATAL_FAILURE(start_connect());
  target->reject(bytes_of(RdmaRefusal{.reason = RefusalReason::kStreamTaken}));
  EXPECT_EQ(connect_code(), ECONNREFUSED);
  EXPECT_EQ(link.error().hint, describe(RefusalReason::kStreamTaken));
  target = std::make_unique<RawTarget>();
  ASSERT_NO_FATAL_FAILURE(start_connect());
  target->reject(bytes_of(RdmaRefusal{.magic = 1, .reason = RefusalReason::kStreamTaken}));
  EXPECT_EQ(connect_code(), ECONNRESET);
  target = std::make_unique<RawTarget>();
  ASSERT_NO_FATAL_FAILURE(start_connect());
  target->reject({});
  EXPECT_EQ(connect_code(), ECONNRESET);
}

TEST_F(RdmaHostileTargetTest, NobodyListensAndNobodyAnswers) {
  const auto refused = connect_rdma_link(places.target, 1, kToken, kOptions, in_seconds(10), places.source);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, ECONNREFUSED) << refused.error().to_string();
  const auto silent =
      connect_rdma_link(places.target, target->port(), kToken, kOptions, in_seconds(1), places.source);
  ASSERT_FALSE(silent);
  EXPECT_EQ(silent.error().code, ETIMEDOUT) << silent.error().to_string();
  const auto unknown =
      connect_rdma_link(places.target, target->port(), kToken, kOptions, in_seconds(1), "xyz0");
  ASSERT_FALSE(unknown);
  EXPECT_EQ(unknown.error().code, ENODEV) << unknown.error().to_string();
}

TEST_F(RdmaHostileTargetTest, RingsThatCannotBeAreNotBelieved) {
  for (int i = 0; i < 5; ++i) {
    target = std::make_unique<RawTarget>();
    ASSERT_NO_FATAL_FAILURE(start_connect());
    RdmaWelcome welcome = target->good_welcome();
    if (i == 0) welcome.magic ^= 1;
    if (i == 1) welcome.version = 2;
    if (i == 2) welcome.slot_stride = 8191;
    if (i == 3) welcome.address = 0;
    if (i == 4) welcome.address = UINT64_MAX - 8192;
    target->accept(bytes_of(welcome));
    EXPECT_EQ(connect_code(), EPROTO) << i;
  }
}

TEST_F(RdmaHostileTargetTest, AWrongKeyEndsTheLink) {
  ASSERT_NO_FATAL_FAILURE(start_connect());
  RdmaWelcome welcome = target->good_welcome();
  welcome.rkey ^= 0x100;
  ASSERT_NO_FATAL_FAILURE(join(welcome));
  static_cast<void>(send(**link, 0, 64, std::byte{1}));
  const auto barrier = (*link)->barrier(1);
  ASSERT_FALSE(barrier);
  EXPECT_EQ(barrier.error().code, EACCES) << barrier.error().to_string();
}

TEST_F(RdmaHostileTargetTest, WrongCreditsEndTheLink) {
  struct Wrong {
    ibv_wr_opcode opcode;
    Immediate immediate;
  };
  for (const Wrong& wrong : {Wrong{IBV_WR_SEND_WITH_IMM, {MessageKind::kCredit, 0, 1}},
                             Wrong{IBV_WR_SEND_WITH_IMM, {MessageKind::kCredit, 0, 2}},
                             Wrong{IBV_WR_SEND_WITH_IMM, {MessageKind::kCredit, 1, 0}},
                             Wrong{IBV_WR_SEND_WITH_IMM, {MessageKind::kBatch, 0, 0}},
                             Wrong{IBV_WR_SEND_WITH_IMM, {MessageKind::kClose, 0, 0}},
                             Wrong{IBV_WR_RDMA_WRITE_WITH_IMM, {MessageKind::kCredit, 0, 0}},
                             Wrong{IBV_WR_SEND, {MessageKind::kCredit, 0, 0}}}) {
    target = std::make_unique<RawTarget>();
    ASSERT_NO_FATAL_FAILURE(join());
    ASSERT_TRUE(send(**link, 0, 64, std::byte{1}));  // slot 0
    say(target->endpoint(), {.opcode = wrong.opcode, .immediate = pack(wrong.immediate)});
    const auto barrier = (*link)->barrier(1);
    ASSERT_FALSE(barrier);
    EXPECT_EQ(barrier.error().code, EPROTO) << barrier.error().to_string();
    link->reset();
  }
}

// The first may meet a batch that it fits; those after it find none, and the last ones no receive either.
TEST_F(RdmaHostileTargetTest, AFloodOfCreditsEndsTheLink) {
  ASSERT_NO_FATAL_FAILURE(join());
  for (int i = 0; i < 8; ++i)
    say(target->endpoint(), {.opcode = IBV_WR_SEND_WITH_IMM,
                             .immediate = pack({.kind = MessageKind::kCredit, .stream = 0, .slot = 0})});
  const auto use = [&]() -> Result<void> {
    GODWIT_TRY(send(**link, 0, 64, std::byte{1}));
    return (*link)->barrier(1);
  };
  static_cast<void>(use());
  EXPECT_FALSE(use());
}

// Lockable memory is counted for a process, the capability is a thread's.
TEST_F(RdmaHostileTargetTest, TooLittleLockableMemorySaysWhatToSet) {
  rlimit before{};
  ASSERT_EQ(::getrlimit(RLIMIT_MEMLOCK, &before), 0);
  const rlimit little{.rlim_cur = 64 << 10, .rlim_max = before.rlim_max};
  ASSERT_EQ(::setrlimit(RLIMIT_MEMLOCK, &little), 0);
  std::thread poor([&] {
    __user_cap_header_struct header{.version = _LINUX_CAPABILITY_VERSION_3, .pid = 0};
    __user_cap_data_struct data[2]{};
    EXPECT_EQ(::syscall(SYS_capget, &header, data), 0);
    data[CAP_TO_INDEX(CAP_IPC_LOCK)].effective &= ~CAP_TO_MASK(CAP_IPC_LOCK);
    EXPECT_EQ(::syscall(SYS_capset, &header, data), 0);
    link = connect_rdma_link(places.target, target->port(), kToken, {}, in_seconds(5), places.source);
  });
  poor.join();
  ASSERT_EQ(::setrlimit(RLIMIT_MEMLOCK, &before), 0);
  ASSERT_FALSE(link);
  EXPECT_EQ(link.error().code, ENOMEM);
  EXPECT_NE(link.error().to_string().find("RLIMIT_MEMLOCK is 64 KiB: set it to at least 72 MiB"),
            std::string::npos)
      << link.error().to_string();
}

}  // namespace
}  // namespace godwit::transport::test
