// Rounds of a process that changes its memory in every way at once, into a replica; frozen now and then, both
// must be equal byte for byte.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>

#include "tests/integration/memory/rounds.h"

namespace godwit::runtime {
namespace {

class RandomRounds : public RoundsTest {
 protected:
  Result<arena::Source> start() override { return arena::start_source(objects_, seed_); }
};

// An emulated machine has time for less.
int cutovers() {
  const char* wanted = std::getenv("GODWIT_MEMORY_CUTOVERS");
  return wanted != nullptr ? std::atoi(wanted) : 6;
}

TEST_P(RandomRounds, ReplicaEqualsTheFrozenSource) {
  track();
  MemoryView seen;
  for (int cutover = 0; cutover < cutovers(); ++cutover) {
    source_.child.go();
    for (int live = 0; live < 5; ++live) {
      ::usleep(20'000);
      ASSERT_NO_FATAL_FAILURE(round(false, seen)) << "seed " << seed_;
    }
    source_.child.stop();
    ASSERT_NO_FATAL_FAILURE(round(true, seen)) << "seed " << seed_;
    ASSERT_NO_FATAL_FAILURE(compare(seen)) << "cutover " << cutover << " seed " << seed_;
    // Nothing ran since: nothing may be found changed.
    const PageCounters before = pages_.counters();
    ASSERT_NO_FATAL_FAILURE(round(true, seen));
    EXPECT_TRUE(GetParam() != Tracking::kNone || pages_.counters().pages_sent == before.pages_sent);
    ASSERT_NO_FATAL_FAILURE(compare(seen));
  }
  EXPECT_GT(*source_.operations, 50U * static_cast<unsigned>(cutovers()));
  EXPECT_GT(*source_.writes, 1000U * static_cast<unsigned>(cutovers()));
  EXPECT_GT(pages_.counters().pages_sent, 1000U);
  EXPECT_GT(pages_.counters().pages_unchanged, 0U);
  ASSERT_DONE(pages_.stop());
  std::printf("%lu operations, %lu writes of threads, %lu pages sent, %lu unchanged\n", *source_.operations,
              *source_.writes, pages_.counters().pages_sent, pages_.counters().pages_unchanged);
}

TEST_P(RandomRounds, ADigestThatIsKeptUpToDateEqualsOneOfEverything) {
  MemoryDigest digest;
  digest.add_process(kSourceId, source_.child.pid(), std::move(tracker_));
  for (int cutover = 0; cutover < cutovers(); ++cutover) {
    source_.child.go();
    for (int live = 0; live < 5; ++live) {
      ::usleep(20'000);
      auto now = view(false);
      ASSERT_DONE(now);
      ASSERT_DONE(digest.update(*now));
    }
    source_.child.stop();
    auto frozen = view(true);
    ASSERT_DONE(frozen);
    ASSERT_DONE(digest.update(*frozen));
    const auto kept = digest.digests(*frozen);
    const auto whole = digest_memory(*frozen);
    ASSERT_DONE(kept);
    ASSERT_DONE(whole);
    ASSERT_GT(whole->front().sum.pages, 100U);
    ASSERT_EQ(*kept, *whole) << "cutover " << cutover << " seed " << seed_;
  }
}

TEST_P(RandomRounds, OneWrongByteIsFound) {
  track();
  MemoryView seen;
  source_.child.go();
  ::usleep(50'000);
  source_.child.stop();
  ASSERT_NO_FATAL_FAILURE(round(true, seen));
  ASSERT_NO_FATAL_FAILURE(compare(seen));
  const auto mem = open_file("/proc/" + std::to_string(replica_->pid()) + "/mem", O_RDWR);
  ASSERT_DONE(mem);
  const auto& vmas = seen.processes[0].vmas;
  const auto target =
      std::ranges::find_if(vmas, [](const Vma& vma) { return !vma.shared && vma.inode == 0; });
  ASSERT_NE(target, vmas.end());
  char byte = 0;
  ASSERT_EQ(::pread(mem->get(), &byte, 1, static_cast<off_t>(target->start + 77)), 1);
  byte = static_cast<char>(byte + 1);
  ASSERT_EQ(::pwrite(mem->get(), &byte, 1, static_cast<off_t>(target->start + 77)), 1);
  const auto digest = digest_memory(seen);
  const auto other = digest_memory(replica_view(seen));
  ASSERT_DONE(digest);
  ASSERT_DONE(other);
  EXPECT_NE((*digest)[0].sum, (*other)[0].sum);
  MemoryView masked = seen;
  masked.processes[0].kernel_bytes.push_back({target->start + 70, target->start + 80});
  MemoryView masked_other = replica_view(masked);
  EXPECT_EQ(digest_memory(masked)->front().sum, digest_memory(masked_other)->front().sum);
}

TEST_P(RandomRounds, ADeadProcessIsAnErrorAtTheSinkAndNoneInALiveRound) {
  track();
  MemoryView seen;
  source_.child.go();
  ::usleep(20'000);
  ASSERT_NO_FATAL_FAILURE(round(false, seen));
  auto before = view(false);
  ASSERT_DONE(before);
  source_.child = arena::Child();  // swapped with an empty one, then destroyed
  const auto due = pages_.begin_round(*before);
  ASSERT_DONE(due);
  const auto size = pages_.fill(buffer_);
  ASSERT_DONE(size);
  before->frozen = true;
  EXPECT_FALSE(pages_.begin_round(*before).has_value());
  replica_.reset();
  BatchHeader header{.extent_count = 1, .payload_offset = 64, .payload_size = kPageSize};
  const Extent extent{SpaceKind::kProcess, ExtentKind::kPages, kSourceId, seen.processes[0].vmas[0].start,
                      kPageSize};
  std::vector<std::byte> batch(64 + kPageSize, std::byte{1});
  std::memcpy(batch.data(), &header, sizeof header);
  std::memcpy(batch.data() + sizeof header, &extent, sizeof extent);
  const auto applied = sink_.apply(batch);
  ASSERT_FALSE(applied.has_value());
  EXPECT_EQ(applied.error().code, ESRCH) << applied.error().to_string();
  ASSERT_DONE(pages_.stop());
}

INSTANTIATE_TEST_SUITE_P(Tracker, RandomRounds, testing::ValuesIn(kEveryTracking), test_name);

}  // namespace
}  // namespace godwit::runtime
