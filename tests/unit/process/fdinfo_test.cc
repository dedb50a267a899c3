#include "runtime/process/descriptors/fdinfo.h"

#include <fcntl.h>
#include <gtest/gtest.h>

namespace godwit::runtime {
namespace {

TEST(FdInfo, ReadsFlagsInOctalAndSkipsWhatItDoesNotNeed) {
  const auto info =
      parse_fdinfo("pos:\t42\nflags:\t02100001\nmnt_id:\t29\nino:\t7\nnovel-field:\twhatever\n");
  ASSERT_TRUE(info) << info.error().to_string();
  EXPECT_EQ(info->position, 42);
  EXPECT_EQ(info->flags, static_cast<uint32_t>(O_WRONLY | O_CLOEXEC | O_LARGEFILE | 0100000));
}

TEST(FdInfo, ReadsCountersAndSignals) {
  const auto info =
      parse_fdinfo("eventfd-count:               1f\neventfd-semaphore: 1\nsigmask:\t0000000000000200\n");
  ASSERT_TRUE(info) << info.error().to_string();
  EXPECT_EQ(info->event_count, 0x1fU);
  EXPECT_EQ(info->event_semaphore, true);
  EXPECT_EQ(info->signal_mask, 0x200U);
}

TEST(FdInfo, ReadsTimers) {
  const auto info = parse_fdinfo(
      "clockid: 1\nticks: 3\nsettime flags: 01\nit_value: (9, 999999999)\nit_interval: (1, 0)\n");
  ASSERT_TRUE(info) << info.error().to_string();
  EXPECT_EQ(info->ticks, 3U);
  EXPECT_EQ(info->value_ns, 9'999'999'999U);
  EXPECT_EQ(info->interval_ns, 1'000'000'000U);
}

TEST(FdInfo, ReadsWatches) {
  const auto info = parse_fdinfo(
      "tfd:        5 events:       19 data: ffffffff00000005  pos:0 ino:1a sdev:8\n"
      "tfd:        6 events:        1 data:                6  pos:0 ino:1b sdev:8\n");
  ASSERT_TRUE(info) << info.error().to_string();
  ASSERT_EQ(info->watches.size(), 2U);
  EXPECT_EQ(info->watches[0].descriptor, 5);
  EXPECT_EQ(info->watches[0].events, 0x19U);
  EXPECT_EQ(info->watches[0].data, 0xffffffff00000005U);
  EXPECT_EQ(info->watches[1].inode, 0x1bU);
}

TEST(FdInfo, ReadsLocksAndNamesForeignOnes) {
  const auto info = parse_fdinfo(
      "lock:\t1: FLOCK  ADVISORY  WRITE 26 fe:00:1234 0 EOF\n"
      "lock:\t2: POSIX  ADVISORY  READ 26 fe:00:1234 10 19\n"
      "lock:\t3: LEASE  ACTIVE    READ 26 fe:00:1234 0 EOF\n");
  ASSERT_TRUE(info) << info.error().to_string();
  ASSERT_EQ(info->locks.size(), 2U);
  EXPECT_EQ(info->locks[0].kind, 1U);
  EXPECT_EQ(info->locks[0].type, static_cast<uint32_t>(F_WRLCK));
  EXPECT_EQ(info->locks[0].length, 0);
  EXPECT_EQ(info->locks[1].start, 10);
  EXPECT_EQ(info->locks[1].length, 10);
  EXPECT_EQ(info->foreign_lock, "LEASE");
}

TEST(FdInfo, RefusesWhatIsTorn) {
  for (const char* text :
       {"pos:\tx\n", "flags:\t9\n", "flags:\t\n", "eventfd-count: zz\n", "it_value: (1, 1000000000)\n",
        "it_value: 1, 2\n", "it_value: (99999999999, 0)\n", "it_value: (\n", "tfd: five\n",
        "lock:\t1: FLOCK\n", "lock:\t2: POSIX  ADVISORY  READ 26 fe:00:1234 10 9\n",
        "ticks: 99999999999999999999999\n"})
    EXPECT_FALSE(parse_fdinfo(text)) << text;
}

}  // namespace
}  // namespace godwit::runtime
