// What every tracker must notice, one thing at a time: after each change the replica must equal the source,
// both when a live round follows the change and when the frozen one does.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstdio>
#include <functional>
#include <string_view>
#include <system_error>

#include "base/clock.h"
#include "base/fd.h"
#include "runtime/memory/shared_stamps.h"
#include "tests/integration/memory/rounds.h"

namespace godwit::runtime {
namespace {

constexpr uint64_t kPage = 4096;
constexpr uint64_t kHuge = uint64_t{2} << 20;
constexpr uint64_t kFree = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED;
constexpr uint64_t kReadWrite = PROT_READ | PROT_WRITE;
constexpr uint64_t kArea = arena::kStart + 16 * kHuge;  // where the cases do their work; in the zone
constexpr uint64_t kOther = arena::kStart;
constexpr uint64_t kPages = 256;
// After it, the times of a shared-memory object tell what happens next.
constexpr useconds_t kSettleUs = SharedStamps::kSettleNs / 1000 * 3 / 2;

class Trackers : public RoundsTest {
 protected:
  Result<arena::Source> start() override {
    GODWIT_ASSIGN(servant_, arena::Servant::start());
    return std::move(servant_->source);
  }
  // `prepare`, two live rounds, `change`, then the frozen round; once more with a live round before that one.
  void check(const std::function<void()>& prepare, const std::function<void()>& change) {
    track();
    for (const bool live : {false, true}) {
      MemoryView seen;
      prepare();
      ASSERT_NO_FATAL_FAILURE(round(false, seen));
      ASSERT_NO_FATAL_FAILURE(round(false, seen));
      change();
      if (live) round(false, seen);
      if (HasFatalFailure()) return;
      source_.child.stop();
      ASSERT_NO_FATAL_FAILURE(round(true, seen));
      ASSERT_NO_FATAL_FAILURE(compare(seen)) << (live ? "live" : "frozen");
      source_.child.go();
    }
  }
  void map(uint64_t start, uint64_t pages, uint64_t flags = kFree, int fd = -1,
           uint64_t protection = kReadWrite) {
    ASSERT_EQ(call(SYS_mmap, {start, pages * kPage, protection, flags, static_cast<uint64_t>(fd), 0}),
              static_cast<int64_t>(start));
  }
  // Mapped and populated with other pages each time.
  void fill(uint64_t start, uint64_t pages) {
    map(start, pages);
    servant_->store(start, pages, ++value_);
  }
  int64_t call(long number, std::initializer_list<uint64_t> arguments) {
    return servant_->call(number, arguments);
  }

  std::unique_ptr<arena::Servant> servant_;
  char value_ = 1;
};

TEST_P(Trackers, Written) {
  check([&] { fill(kArea, kPages); }, [&] { servant_->store(kArea + 3 * kPage, 20, ++value_, 7); });
}

TEST_P(Trackers, NewMapping) {
  check([&] { call(SYS_munmap, {kArea, kPages * kPage}); }, [&] { fill(kArea, kPages); });
}

TEST_P(Trackers, NothingThereYet) {
  check([&] { map(kArea, kPages); }, [&] { servant_->store(kArea, 40, ++value_, 5); });
}

TEST_P(Trackers, OnlyReadYet) {
  check(
      [&] {
        map(kArea, kPages);
        servant_->load(kArea, kPages);
      },
      [&] { servant_->store(kArea, 40, ++value_, 5); });
}

TEST_P(Trackers, ReplacedByFreshPages) {
  check([&] { fill(kArea, kPages); },
        [&] {
          call(SYS_munmap, {kArea, kPages * kPage});
          map(kArea, kPages);
          servant_->store(kArea, 10, ++value_, 9);
        });
}

TEST_P(Trackers, ReplacedInTheMiddle) {
  check([&] { fill(kArea, kPages); },
        [&] {
          map(kArea + 16 * kPage, 16);
          servant_->load(kArea + 16 * kPage, 4);
          servant_->store(kArea + 24 * kPage, 4, ++value_);
        });
}

TEST_P(Trackers, MovedOntoAnother) {
  check(
      [&] {
        fill(kArea, kPages);
        fill(kOther, kPages);
      },
      [&] {
        call(SYS_mremap,
             {kOther + kPage, 64 * kPage, 64 * kPage, MREMAP_MAYMOVE | MREMAP_FIXED, kArea + kPage});
      });
}

// The kernel moves page tables here, not pages.
TEST_P(Trackers, MovedByPageTables) {
  const auto fill_small = [&](uint64_t start) {
    map(start, 1024);
    call(SYS_madvise, {start, 1024 * kPage, MADV_NOHUGEPAGE});
    servant_->store(start, 1024, ++value_);
  };
  check(
      [&] {
        fill_small(kArea);
        fill_small(kOther);
      },
      [&] {
        call(SYS_mremap, {kOther, 2 * kHuge, 2 * kHuge, MREMAP_MAYMOVE | MREMAP_FIXED, kArea});
      });
}

TEST_P(Trackers, MovedAndWritten) {
  check([&] { fill(kArea, kPages); },
        [&] {
          call(SYS_mremap, {kArea, kPages * kPage, kPages * kPage, MREMAP_MAYMOVE | MREMAP_FIXED, kOther});
          servant_->store(kOther, 10, ++value_, 3);
          map(kArea, kPages);
        });
}

TEST_P(Trackers, Grown) {
  check([&] { fill(kArea, kPages); },
        [&] {
          call(SYS_munmap, {kArea + 250 * kPage, 100 * kPage});
          call(SYS_mremap, {kArea, 250 * kPage, 300 * kPage, 0});
          servant_->store(kArea + 240 * kPage, 30, ++value_, 2);
        });
}

TEST_P(Trackers, GrownHeap) {
  const uint64_t heap = source_.heap_start;
  check(
      [&] {
        call(SYS_brk, {heap + 16 * kPage});
        servant_->store(heap, 16, ++value_);
      },
      [&] {
        call(SYS_brk, {heap + 8 * kPage});
        call(SYS_brk, {heap + 64 * kPage});
        servant_->store(heap, 32, ++value_, 2);
      });
}

TEST_P(Trackers, GrownStack) {
  const uint64_t top = arena::kStackTop;
  check(
      [&] {
        call(SYS_munmap, {top - arena::kStackMax, arena::kStackMax});
        map(top - 16 * kPage, 16, kFree | MAP_GROWSDOWN);
        servant_->store(top - 16 * kPage, 16, ++value_);
      },
      [&] {
        for (uint64_t page = 17; page < 80; ++page) servant_->store(top - page * kPage, 1, ++value_);
      });
}

TEST_P(Trackers, Dropped) {
  check([&] { fill(kArea, kPages); },
        [&] {
          call(SYS_madvise, {kArea, 128 * kPage, MADV_DONTNEED});
          servant_->load(kArea, 32);
          servant_->store(kArea + 32 * kPage, 16, ++value_, 2);
        });
}

TEST_P(Trackers, ProtectedAndBack) {
  check([&] { fill(kArea, kPages); },
        [&] {
          call(SYS_mprotect, {kArea, 64 * kPage, PROT_READ});
          call(SYS_mprotect, {kArea, 64 * kPage, kReadWrite});
          servant_->store(kArea, 64, ++value_);
          call(SYS_mprotect, {kArea, 32 * kPage, PROT_NONE});
        });
}

TEST_P(Trackers, Forked) {
  check([&] { fill(kArea, kPages); },
        [&] {
          servant_->store_in_child(kArea, 64, ++value_);
          servant_->store(kArea + 8 * kPage, 8, ++value_, 3);
        });
}

TEST_P(Trackers, PrivateFile) {
  check(
      [&] {
        map(kArea, 64, MAP_PRIVATE | MAP_FIXED, objects_.file.get());
        servant_->store(kArea, 16, ++value_, 2);
      },
      [&] {
        servant_->store(kArea + kPage, 16, ++value_);
        call(SYS_madvise, {kArea + 8 * kPage, 8 * kPage, MADV_DONTNEED});
        servant_->load(kArea + 8 * kPage, 4);
      });
}

// Another area with the same object shows the writes, too, but has no bit of its own.
TEST_P(Trackers, SharedMemory) {
  const int object = objects_.source[0].get();
  check(
      [&] {
        map(kArea, 64, MAP_SHARED | MAP_FIXED, object);
        map(kOther, 64, MAP_SHARED | MAP_FIXED, object);
        servant_->store(kArea, 64, ++value_);
      },
      [&] { servant_->store(kOther, 16, ++value_, 3); });
}

TEST_P(Trackers, SharedMemoryThatWasNotThere) {
  const int object = objects_.source[0].get();
  check(
      [&] {
        map(kArea, 64, MAP_SHARED | MAP_FIXED, object);
        call(SYS_madvise, {kArea, 64 * kPage, MADV_REMOVE});
      },
      [&] { servant_->store(kArea, 16, ++value_, 3); });
}

// The entry of the page table goes, the page stays: with the entry goes what it knew of the write.
TEST_P(Trackers, SharedMemoryWrittenAndForgotten) {
  const int object = objects_.source[0].get();
  check(
      [&] {
        map(kArea, 64, MAP_SHARED | MAP_FIXED, object);
        servant_->store(kArea, 64, ++value_);
      },
      [&] {
        servant_->store(kArea, 16, ++value_, 3);
        call(SYS_madvise, {kArea, 64 * kPage, MADV_DONTNEED});
        servant_->load(kArea, 8);
      });
}

TEST_P(Trackers, SharedMemoryByDescriptor) {
  const int object = objects_.source[1].get();
  check(
      [&] {
        fill(kOther, 1);
        map(kArea, 64, MAP_SHARED | MAP_FIXED, object);
        servant_->store(kArea, 64, ++value_);
      },
      [&] {
        call(SYS_pwrite64, {static_cast<uint64_t>(object), kOther, 100, 5 * kPage + 7});
        servant_->store(kArea + 9 * kPage, 1, ++value_);
      });
}

// No page table says that it was written to, then or ever.
TEST_P(Trackers, SharedMemoryByDescriptorAlone) {
  const int object = objects_.source[0].get();
  const auto write = [&](uint64_t page) {
    call(SYS_pwrite64, {static_cast<uint64_t>(object), kOther, 100, page * kPage + 7});
  };
  check(
      [&] {
        fill(kOther, 1);
        write(5);
        ::usleep(kSettleUs);
      },
      [&] { write(5), write(9); });
}

TEST_P(Trackers, SharedMemoryMappedForAMoment) {
  const int object = objects_.source[0].get();
  check(
      [&] {
        map(kArea, 64, MAP_SHARED | MAP_FIXED, object);
        servant_->store(kArea, 64, ++value_);
        ::usleep(kSettleUs);
      },
      [&] {
        map(kOther, 64, MAP_SHARED | MAP_FIXED, object);
        servant_->store(kOther + 3 * kPage, 5, ++value_);
        call(SYS_munmap, {kOther, 64 * kPage});
      });
}

// It costs nothing in the frozen round if nobody uses it.
TEST_P(Trackers, IdleSharedMemoryIsNotRead) {
  if (GetParam() != Tracking::kUffd) GTEST_SKIP() << "others compare all shared memory that is mapped";
  track();
  fill(kOther, 1);
  call(SYS_pwrite64, {static_cast<uint64_t>(objects_.source[0].get()), kOther, 4096, 5 * kPage});
  ::usleep(kSettleUs);
  MemoryView seen;
  ASSERT_NO_FATAL_FAILURE(round(false, seen));
  source_.child.stop();
  ASSERT_NO_FATAL_FAILURE(round(false, seen));
  auto frozen = view(true);
  ASSERT_DONE(frozen);
  std::erase_if(frozen->processes, [](const ProcessView&) { return true; });
  const uint64_t before = pages_.counters().bytes_read;
  ASSERT_DONE(pages_.begin_round(*frozen));
  EXPECT_EQ(pages_.pages_left(), 0U);
  EXPECT_EQ(pages_.counters().bytes_read, before);
}

// The program must not notice: what grows and moves while it is registered is registered whole or not at all.
TEST_P(Trackers, GrowsAndMovesWhileItIsRegistered) {
  if (!tracker_) GTEST_SKIP() << "nothing to ask";
  servant_->begin_regrowing(1500);
  uint64_t rounds = 0;
  for (; !servant_->ended(0); ++rounds) {
    auto vmas = read_maps(source_.child.pid());
    ASSERT_DONE(vmas);
    std::erase_if(*vmas, [](const Vma& vma) { return vma.name.starts_with("[v"); });
    ASSERT_DONE(tracker_->follow(*vmas));
    Ranges replaced;
    ASSERT_DONE(tracker_->collect(replaced));
  }
  EXPECT_EQ(servant_->outcome(), 0) << std::generic_category().message(
      static_cast<int>(-servant_->outcome()));
  EXPECT_GT(rounds, 10U);
}

TEST_P(Trackers, HugePages) {
  check(
      [&] {
        map(kArea, 1024);
        call(SYS_madvise, {kArea, 1024 * kPage, MADV_HUGEPAGE});
        servant_->store(kArea, 1024, ++value_);
        auto maps = read_file("/proc/" + std::to_string(source_.child.pid()) + "/smaps_rollup");
        ASSERT_DONE(maps);
        const size_t at = maps->find("AnonHugePages:");
        std::printf("  %s\n", maps->substr(at, maps->find('\n', at) - at).c_str());
      },
      [&] {
        servant_->store(kArea + 5 * kPage, 3, ++value_, 100);
        call(SYS_madvise, {kArea + kHuge + 10 * kPage, 20 * kPage, MADV_DONTNEED});
        servant_->store(kArea + kHuge + 12 * kPage, 1, ++value_);
      });
}

// The huge page of zeroes, then a huge page of one's own.
TEST_P(Trackers, HugePageOfZeroes) {
  check(
      [&] {
        map(kArea, 1024);
        call(SYS_madvise, {kArea, 1024 * kPage, MADV_HUGEPAGE});
        servant_->load(kArea, 1024);
      },
      [&] { servant_->store(kArea + 5 * kPage, 3, ++value_, 200); });
}

TEST_P(Trackers, Swapped) {
  const auto swaps = read_file("/proc/swaps");
  ASSERT_DONE(swaps);
  if (std::ranges::count(*swaps, '\n') < 2) GTEST_SKIP() << "this machine has no swap space";
  check(
      [&] {
        fill(kArea, kPages);
        call(SYS_madvise, {kArea, kPages * kPage, MADV_PAGEOUT});
      },
      [&] {
        servant_->load(kArea, 16);
        servant_->store(kArea + 8 * kPage, 16, ++value_, 3);
        call(SYS_madvise, {kArea, kPages * kPage, MADV_PAGEOUT});
      });
}

TEST_P(Trackers, WrittenByRead) {
  const auto file = static_cast<uint64_t>(objects_.file.get());
  check([&] { fill(kArea, kPages); },
        [&] {
          EXPECT_EQ(call(SYS_pread64, {file, kArea + 100, 3 * kPage, 0}), static_cast<int64_t>(3 * kPage));
          EXPECT_EQ(call(SYS_pread64, {file, kArea + 9 * kPage, 1, 0}), 1);
          EXPECT_GT(call(SYS_getcwd, {kArea + 12 * kPage, 100}), 0);
        });
}

TEST_P(Trackers, WrittenByAnotherProcess) {
  check([&] { fill(kArea, kPages); },
        [&] {
          std::vector<char> bytes(3 * kPage, ++value_);
          iovec local{bytes.data(), bytes.size()};
          iovec remote{reinterpret_cast<void*>(kArea + 5 * kPage + 10), bytes.size()};
          EXPECT_EQ(::process_vm_writev(source_.child.pid(), &local, 1, &remote, 1, 0),
                    static_cast<ssize_t>(bytes.size()));
        });
}

// The last round is many threads' work where memory is large, and says the same as if it were one's. With
// holes, in page tables and between them.
TEST_P(Trackers, LargeMemoryIsScannedByAll) {
  if (!tracker_) GTEST_SKIP() << "nobody to ask";
  constexpr uint64_t kBase = uint64_t{1} << 46;
  constexpr uint64_t kLarge = uint64_t{1} << 18;  // pages: 1 GiB, of which few are there
  map(kBase, kLarge, kFree | MAP_NORESERVE);
  call(SYS_madvise, {kBase, kLarge * kPage, MADV_NOHUGEPAGE});
  servant_->store(kBase, kLarge / 16, ++value_, 16);
  const Vma large{.start = kBase,
                  .end = kBase + kLarge * kPage,
                  .readable = true,
                  .writable = true,
                  .executable = false,
                  .shared = false,
                  .offset = 0,
                  .device_major = 0,
                  .device_minor = 0,
                  .inode = 0,
                  .name = {}};
  ASSERT_DONE(tracker_->follow({large}));
  Ranges replaced;
  ASSERT_DONE(tracker_->collect(replaced));
  constexpr uint64_t kStep = 4096 - 16;
  servant_->store(kBase, kLarge / kStep, ++value_, kStep);
  call(SYS_madvise, {kBase + kLarge / 4 * kPage, 3 * kHuge, MADV_DONTNEED});
  source_.child.stop();
  SharedWork alone;
  const auto expected = tracker_->collect_last({large}, alone);
  ASSERT_DONE(expected);
  EXPECT_GE(total_size(expected->written), (kLarge / kStep - 3) * kPage);
  SharedWork work(3);
  constexpr uint64_t kAsked = 64 * kPage;  // uffd-sync asks of each piece by unprotecting its first page
  for (int i = 0; i < 20; ++i) {
    const auto found = tracker_->collect_last({large}, work);
    ASSERT_DONE(found);
    EXPECT_TRUE(subtract(expected->written, found->written).empty());
    EXPECT_LE(total_size(found->written), total_size(expected->written) + kAsked);
    EXPECT_EQ(found->absent, expected->absent);
    EXPECT_EQ(found->unfollowed, expected->unfollowed);
  }
  if (std::string_view(tracker_->name()) == "uffd") {  // helpers who get no descriptor: the owner does it all
    rlimit usual{};
    ASSERT_EQ(::getrlimit(RLIMIT_NOFILE, &usual), 0);
    const rlimit none{.rlim_cur = 0, .rlim_max = usual.rlim_max};
    ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &none), 0);
    const auto found = tracker_->collect_last({large}, work);
    ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &usual), 0);
    ASSERT_DONE(found);
    EXPECT_EQ(found->written, expected->written);
  }
  source_.child.go();
}

// The kernel zeroes a word in the thread's memory when it ends, and pthread_join(3) waits for that.
TEST_P(Trackers, ThreadsThatEndAreJoined) {
  track();
  fill(kArea, kPages);
  MemoryView seen;
  constexpr int64_t kPatienceNs = 60'000'000'000;
  const int64_t begun_ns = monotonic_ns();
  servant_->begin_threads(4'000);
  const auto whole = [&] {
    auto now = view(false);
    if (now) now->processes[0].vmas = *read_maps(source_.child.pid());
    return now;
  };
  int rounds = 0;
  for (; !servant_->ended(1); ++rounds) {
    auto now = whole();
    ASSERT_DONE(now);
    std::erase_if(now->processes[0].vmas, [](const Vma& vma) { return vma.shared; });
    ASSERT_DONE(pages_.begin_round(*now));
    ASSERT_LT(monotonic_ns() - begun_ns, kPatienceNs) << "the threads are not joined";
  }
  EXPECT_GT(rounds, 10);
}

// execve(2): another address space.
TEST_P(Trackers, ExecutedAnotherProgram) {
  if (!tracker_) GTEST_SKIP() << "nothing to ask";
  fill(kArea, kPages);
  auto now = view(false);
  ASSERT_DONE(now);
  ASSERT_DONE(tracker_->follow(now->processes[0].vmas));
  fill(kOther, 1);
  const std::string path = "/bin/sleep";
  const std::string hour = "3600";
  std::vector<char> bytes(64);
  const uint64_t vector[] = {kOther, kOther + 32, 0};
  std::copy(path.begin(), path.end(), bytes.begin());
  std::copy(hour.begin(), hour.end(), bytes.begin() + 32);
  bytes.insert(bytes.end(), reinterpret_cast<const char*>(vector), reinterpret_cast<const char*>(vector + 3));
  iovec local{bytes.data(), bytes.size()};
  iovec remote{reinterpret_cast<void*>(kOther), bytes.size()};
  ASSERT_EQ(::process_vm_writev(source_.child.pid(), &local, 1, &remote, 1, 0),
            static_cast<ssize_t>(bytes.size()));
  servant_->begin_call(SYS_execve, {kOther, kOther + 64, 0});
  ::usleep(200'000);
  Ranges replaced;
  const auto written = tracker_->collect(replaced);
  ASSERT_FALSE(written.has_value());
  EXPECT_EQ(written.error().code, ESRCH) << written.error().to_string();
  SharedWork alone;
  const auto last = tracker_->collect_last(now->processes[0].vmas, alone);
  ASSERT_FALSE(last.has_value());
  EXPECT_EQ(last.error().code, ESRCH) << last.error().to_string();
  const auto followed = tracker_->follow(now->processes[0].vmas);
  ASSERT_FALSE(followed.has_value());
  EXPECT_EQ(followed.error().code, ESRCH) << followed.error().to_string();
}

// A migration that hangs keeps writers of uffd-sync waiting; when it dies they go on.
TEST_P(Trackers, ADeadMigrationLeavesNobodyWaiting) {
  if (!tracker_) GTEST_SKIP() << "nothing to die";
  fill(kArea, kPages);
  auto now = view(false);
  ASSERT_DONE(now);
  // The migration is a process of its own, which alone has the userfaultfd: start again without a tracker.
  tracker_.reset();
  auto fresh = arena::Servant::start();
  ASSERT_DONE(fresh);
  servant_ = std::move(*fresh);
  source_ = std::move(servant_->source);
  fill(kArea, kPages);
  const pid_t migration = ::fork();
  if (migration == 0) {
    auto made = make_tracker();
    auto mine = view(false);
    if (!made || !mine || !(*made)->follow(mine->processes[0].vmas)) ::_exit(1);
    ::raise(SIGSTOP);
    ::_exit(2);
  }
  source_.userfaultfd.reset();
  int status = 0;
  ASSERT_EQ(::waitpid(migration, &status, WUNTRACED), migration);
  ASSERT_TRUE(WIFSTOPPED(status)) << status;
  servant_->begin_store(kArea, ++value_);
  const bool went_on = servant_->ended(300);
  EXPECT_EQ(went_on, GetParam() != Tracking::kUffdSync);
  ::kill(migration, SIGKILL);
  ::waitpid(migration, nullptr, 0);
  EXPECT_TRUE(went_on || servant_->ended(5000)) << "the writer still waits";
  servant_->store(kArea, kPages, ++value_);
}

INSTANTIATE_TEST_SUITE_P(Tracker, Trackers, testing::ValuesIn(kEveryTracking), test_name);

}  // namespace
}  // namespace godwit::runtime
