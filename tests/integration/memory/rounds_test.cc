// Rounds of a process that changes its memory in every way at once, into a replica; frozen now and then, both
// must be equal byte for byte.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <cstring>
#include <random>

#include "runtime/memory/digest.h"
#include "runtime/memory/page_sink.h"
#include "runtime/memory/page_source.h"
#include "runtime/memory/store_tracker.h"
#include "tests/integration/memory/arena.h"

namespace godwit::runtime {
namespace {

constexpr uint64_t kSourceId = 17;

uint64_t pick_seed() {
  const char* fixed = std::getenv("GODWIT_MEMORY_SEED");
  return fixed != nullptr ? std::strtoull(fixed, nullptr, 10) : std::random_device{}();
}

#define ASSERT_DONE(...)                                                                             \
  do {                                                                                               \
    const auto& done_result = (__VA_ARGS__);                                                         \
    ASSERT_TRUE(done_result.has_value()) << #__VA_ARGS__ << ": " << done_result.error().to_string(); \
  } while (false)

class RoundsTest : public testing::TestWithParam<bool> {
 protected:
  void SetUp() override {
    if (::geteuid() != 0) GTEST_SKIP() << "needs root";
    seed_ = pick_seed();
    auto objects = arena::make_objects();
    ASSERT_DONE(objects);
    objects_ = std::move(*objects);
    auto source = arena::start_source(objects_, seed_);
    ASSERT_DONE(source);
    source_ = std::move(*source);
    auto replica = arena::Replica::start(objects_);
    ASSERT_DONE(replica);
    replica_ = std::make_unique<arena::Replica>(std::move(*replica));
    if (GetParam()) {
      auto made = make_uffd_async_tracker(source_.child.pid(), std::move(source_.userfaultfd));
      ASSERT_DONE(made);
      tracker_ = std::move(*made);
    }
    buffer_.resize(size_t{1} << 20);
    sink_.keep_list();
    auto list = make_store_tracker(replica_->pid(), [this] { return sink_.take_list(kSourceId); });
    ASSERT_DONE(list);
    kept_.add_process(kSourceId, replica_->pid(), std::move(*list));
  }
  void track() { pages_.add_process(kSourceId, source_.child.pid(), std::move(tracker_)); }

  Result<MemoryView> view(bool frozen) const;
  [[nodiscard]] MemoryView replica_view(const MemoryView& view) const;
  void round(bool frozen, MemoryView& view);
  void compare(const MemoryView& view);
  void compare_vma(const Vma& vma, int ours, int theirs) const;

  uint64_t seed_ = 0;
  arena::Objects objects_;
  arena::Source source_;
  std::unique_ptr<arena::Replica> replica_;
  std::unique_ptr<DirtyTracker> tracker_;  // for whom the test is about
  PageSource pages_;
  PageSink sink_;
  MemoryDigest kept_;  // of the replica, from round to round
  std::vector<std::byte> buffer_;
};

Result<MemoryView> RoundsTest::view(bool frozen) const {
  MemoryView view{.processes = {}, .shared_memory = {}, .frozen = frozen};
  ProcessView process{.space_id = kSourceId, .host_pid = source_.child.pid(), .vmas = {}, .kernel_bytes = {}};
  for (uint64_t id = 0; id < 2; ++id)
    view.shared_memory.push_back({.space_id = id + 1,
                                  .fd = objects_.source[id].get(),
                                  .size = arena::kObjectBytes,
                                  .written_by_descriptor = id == 1,
                                  .mappings = {}});
  GODWIT_ASSIGN(const std::vector<Vma> all, read_maps(source_.child.pid()));
  for (Vma vma : all) {
    const Range zone = vma.start >= arena::kStart
                           ? Range{arena::kStart, arena::kZoneEnd}
                           : Range{source_.heap_start, source_.heap_start + arena::kHeapMax};
    vma.start = std::max(vma.start, zone.start);
    vma.end = std::min(vma.end, zone.end);
    if (vma.start >= vma.end) continue;
    const int object = arena::object_of(vma, objects_);
    if (object >= 0)
      view.shared_memory[static_cast<size_t>(object)].mappings.push_back(
          {kSourceId, vma.start, vma.end, vma.offset});
    process.vmas.push_back(std::move(vma));
  }
  view.processes.push_back(std::move(process));
  return view;
}

MemoryView RoundsTest::replica_view(const MemoryView& view) const {
  MemoryView other = view;
  other.processes[0].host_pid = replica_->pid();
  for (size_t i = 0; i < 2; ++i) other.shared_memory[i].fd = objects_.replica[i].get();
  return other;
}

void RoundsTest::round(bool frozen, MemoryView& seen) {
  auto now = view(frozen);
  ASSERT_DONE(now);
  seen = std::move(*now);
  ASSERT_DONE(replica_->reconcile(seen.processes[0].vmas, objects_));
  Ranges allowed;
  for (const Vma& vma : seen.processes[0].vmas) append_range(allowed, {vma.start, vma.end});
  std::vector<PageSink::Space> spaces{
      {.kind = SpaceKind::kProcess, .id = kSourceId, .host_pid = replica_->pid(), .allowed = allowed}};
  for (size_t i = 0; i < 2; ++i)
    spaces.push_back(
        {.kind = SpaceKind::kSharedMemory, .id = i + 1, .fd = objects_.replica[i].get(), .allowed = {}});
  ASSERT_DONE(sink_.set_spaces(spaces));
  const auto due = pages_.begin_round(seen);
  ASSERT_DONE(due);
  for (const Discard& discard : due->discards) ASSERT_DONE(replica_->discard(discard.range));
  for (;;) {
    const auto size = pages_.fill(buffer_);
    ASSERT_DONE(size);
    if (*size == 0) break;
    ASSERT_DONE(sink_.apply(std::span(buffer_).first(*size)));
  }
  ASSERT_EQ(pages_.pages_left(), 0U);
  ASSERT_DONE(kept_.update(replica_view(seen)));
}

void RoundsTest::compare_vma(const Vma& vma, int ours, int theirs) const {
  std::vector<char> one(vma.end - vma.start);
  std::vector<char> other(one.size());
  ASSERT_EQ(::pread(ours, one.data(), one.size(), static_cast<off_t>(vma.start)),
            static_cast<ssize_t>(one.size()));
  ASSERT_EQ(::pread(theirs, other.data(), other.size(), static_cast<off_t>(vma.start)),
            static_cast<ssize_t>(one.size()));
  for (size_t at = 0; at < one.size(); at += 4096)
    ASSERT_EQ(std::memcmp(one.data() + at, other.data() + at, std::min<size_t>(4096, one.size() - at)), 0)
        << "page " << std::hex << vma.start + at << " of " << vma.start << "-" << vma.end << " inode "
        << std::dec << vma.inode << " seed " << seed_;
}

void RoundsTest::compare(const MemoryView& view) {
  const auto digest = digest_memory(view);
  const auto other = digest_memory(replica_view(view));
  ASSERT_DONE(digest);
  ASSERT_DONE(other);
  const auto memory = open_file("/proc/" + std::to_string(source_.child.pid()) + "/mem", O_RDONLY);
  const auto copy = open_file("/proc/" + std::to_string(replica_->pid()) + "/mem", O_RDONLY);
  ASSERT_DONE(memory);
  ASSERT_DONE(copy);
  for (const Vma& vma : view.processes[0].vmas) {
    if (vma.shared) continue;
    ASSERT_NO_FATAL_FAILURE(compare_vma(vma, memory->get(), copy->get()));
  }
  for (int i = 0; i < 2; ++i) {
    const Vma whole{.start = 0, .end = arena::kObjectBytes, .name = {}};
    ASSERT_NO_FATAL_FAILURE(compare_vma(whole, objects_.source[i].get(), objects_.replica[i].get()));
  }
  EXPECT_EQ(*digest, *other) << "seed " << seed_;
  const auto kept = kept_.digests(replica_view(view));
  ASSERT_DONE(kept);
  EXPECT_EQ(*kept, *other) << "the digest that was kept, seed " << seed_;
}

TEST_P(RoundsTest, ReplicaEqualsTheFrozenSource) {
  track();
  MemoryView seen;
  for (int cutover = 0; cutover < 6; ++cutover) {
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
    EXPECT_TRUE(GetParam() || pages_.counters().pages_sent == before.pages_sent);
    ASSERT_NO_FATAL_FAILURE(compare(seen));
  }
  EXPECT_GT(*source_.operations, 1000U);
  EXPECT_GT(pages_.counters().pages_sent, 1000U);
  EXPECT_GT(pages_.counters().pages_unchanged, 0U);
  ASSERT_DONE(pages_.stop());
  RecordProperty("operations", static_cast<int>(*source_.operations));
}

TEST_P(RoundsTest, ADigestThatIsKeptUpToDateEqualsOneOfEverything) {
  MemoryDigest digest;
  digest.add_process(kSourceId, source_.child.pid(), std::move(tracker_));
  for (int cutover = 0; cutover < 6; ++cutover) {
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

TEST_P(RoundsTest, OneWrongByteIsFound) {
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

TEST_P(RoundsTest, ADeadProcessIsAnErrorAtTheSinkAndNoneInALiveRound) {
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

INSTANTIATE_TEST_SUITE_P(Tracker, RoundsTest, testing::Values(true, false),
                         [](const auto& chosen) { return chosen.param ? "userfaultfd" : "none"; });

}  // namespace
}  // namespace godwit::runtime
