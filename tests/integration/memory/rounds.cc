#include "tests/integration/memory/rounds.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <cstring>
#include <random>
#include <sstream>

#include "runtime/kernel/features.h"
#include "runtime/memory/pagemap.h"
#include "runtime/memory/store_tracker.h"

namespace godwit::runtime {
namespace {

uint64_t pick_seed() {
  const char* fixed = std::getenv("GODWIT_MEMORY_SEED");
  return fixed != nullptr ? std::strtoull(fixed, nullptr, 10) : std::random_device{}();
}

bool kernel_has(Tracking tracking) {
  const TrackingAbilities& abilities = tracking_abilities();
  return tracking == Tracking::kUffd        ? abilities.uffd_async
         : tracking == Tracking::kUffdSync  ? abilities.uffd_sync
         : tracking == Tracking::kSoftDirty ? abilities.soft_dirty
                                            : true;
}

}  // namespace

const char* name_of(Tracking tracking) {
  return tracking == Tracking::kUffd        ? "uffd"
         : tracking == Tracking::kUffdSync  ? "uffd_sync"
         : tracking == Tracking::kSoftDirty ? "soft_dirty"
                                            : "none";
}

std::string test_name(const testing::TestParamInfo<Tracking>& chosen) {
  return name_of(chosen.param);
}

Result<std::unique_ptr<DirtyTracker>> RoundsTest::make_tracker() {
  const pid_t pid = source_.child.pid();
  switch (GetParam()) {
    case Tracking::kUffd:
      return make_uffd_async_tracker(pid, std::move(source_.userfaultfd));
    case Tracking::kUffdSync:
      return make_uffd_sync_tracker(pid, std::move(source_.userfaultfd));
    case Tracking::kSoftDirty:
      return make_soft_dirty_tracker(pid, [this](const std::function<Result<void>()>& step) -> Result<void> {
        if (source_.child.pid() == 0) return fail("stop", "the source", ESRCH);
        const bool ran = !source_.child.is_stopped();
        if (ran) source_.child.stop();
        auto outcome = step();
        if (ran) source_.child.go();
        return outcome;
      });
    case Tracking::kNone:
      break;
  }
  return nullptr;
}

void RoundsTest::SetUp() {
  if (::geteuid() != 0) GTEST_SKIP() << "needs root";
  if (!kernel_has(GetParam())) GTEST_SKIP() << "this kernel cannot track by " << name_of(GetParam());
  seed_ = pick_seed();
  auto objects = arena::make_objects();
  ASSERT_DONE(objects);
  objects_ = std::move(*objects);
  auto source = start();
  ASSERT_DONE(source);
  source_ = std::move(*source);
  auto replica = arena::Replica::start(objects_);
  ASSERT_DONE(replica);
  replica_ = std::make_unique<arena::Replica>(std::move(*replica));
  auto made = make_tracker();
  ASSERT_DONE(made);
  tracker_ = std::move(*made);
  buffer_.resize(size_t{1} << 20);
  sink_.keep_list();
  auto list = make_store_tracker(replica_->pid(), [this] { return sink_.take_list(kSourceId); });
  ASSERT_DONE(list);
  kept_.add_process(kSourceId, replica_->pid(), std::move(*list));
}

Result<MemoryView> RoundsTest::view(bool frozen) const {
  MemoryView view{.processes = {}, .shared_memory = {}, .frozen = frozen};
  ProcessView process{.space_id = kSourceId, .host_pid = source_.child.pid(), .vmas = {}, .kernel_bytes = {}};
  for (uint64_t id = 0; id < 2; ++id)
    view.shared_memory.push_back(
        {.space_id = id + 1, .fd = objects_.reading[id].get(), .size = arena::kObjectBytes, .mappings = {}});
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

// A private page of a file that the source has dropped must be the file's at the replica, too.
void RoundsTest::compare_populated(const Vma& vma) const {
  Ranges sets[2];
  for (const pid_t pid : {source_.child.pid(), replica_->pid()}) {
    auto pagemap = Pagemap::open(pid);
    ASSERT_DONE(pagemap);
    ASSERT_DONE(pagemap->populated({vma.start, vma.end}, page_class(vma), sets[pid == replica_->pid()]));
  }
  const auto show = [](const Ranges& ranges) {
    std::ostringstream text;
    for (const Range& range : ranges) text << std::hex << " " << range.start << "-" << range.end;
    return text.str();
  };
  ASSERT_EQ(sets[0], sets[1]) << "the source has more: " << show(subtract(sets[0], sets[1]))
                              << " the replica: " << show(subtract(sets[1], sets[0])) << " seed " << seed_;
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
    if (vma.inode == 0) continue;
    ASSERT_NO_FATAL_FAILURE(compare_populated(vma));
  }
  for (int i = 0; i < 2; ++i) {
    const Vma whole{.start = 0, .end = arena::kObjectBytes, .name = {}};
    ASSERT_NO_FATAL_FAILURE(compare_vma(whole, objects_.reading[i].get(), objects_.replica[i].get()));
  }
  EXPECT_EQ(*digest, *other) << "seed " << seed_;
  const auto kept = kept_.digests(replica_view(view));
  ASSERT_DONE(kept);
  EXPECT_EQ(*kept, *other) << "the digest that was kept, seed " << seed_;
}

}  // namespace godwit::runtime
