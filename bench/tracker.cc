// What each tracker of this kernel costs: arming, one round at several shares of dirty pages in a running and
// in a frozen process, and the first write to a page. 1 GiB, or GODWIT_BENCH_MIB of it. Needs root.
#include <benchmark/benchmark.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstdlib>
#include <cstring>

#include "base/clock.h"
#include "runtime/memory/trackers.h"

namespace godwit::runtime {
namespace {

constexpr uint64_t kBase = 0x300000000000;

// A child with `size` bytes of populated memory that writes one byte to each of so many pages when told.
struct Writer {
  pid_t pid = 0;
  uint64_t size = 0;
  volatile uint64_t* shared =
      nullptr;  // [0] pages to write, [1] userfaultfd + 1, [2] ns that the last order took
  Fd userfaultfd;
  std::vector<Vma> vmas;

  explicit Writer(uint64_t bytes) : size(bytes) {
    shared = static_cast<uint64_t*>(
        ::mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
    pid = ::fork();
    if (pid == 0) run();
    while (shared[1] == 0) ::usleep(100);
    const Fd process(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0)));
    userfaultfd = Fd(static_cast<int>(::syscall(SYS_pidfd_getfd, process.get(), shared[1] - 1, 0)));
    Vma vma{.start = kBase, .end = kBase + size, .readable = true, .writable = true, .name = {}};
    vmas = {vma};
  }
  Writer(const Writer&) = delete;
  Writer& operator=(const Writer&) = delete;
  ~Writer() {
    ::kill(pid, SIGKILL);
    ::waitpid(pid, nullptr, 0);
    ::munmap(const_cast<uint64_t*>(shared), 4096);
  }
  [[noreturn]] void run() const {
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    void* base = ::mmap(reinterpret_cast<void*>(kBase), size, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    if (base == MAP_FAILED) ::_exit(1);
    ::madvise(base, size, MADV_NOHUGEPAGE);
    std::memset(base, 1, size);
    shared[1] = static_cast<uint64_t>(::syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK)) + 1;
    for (;;) {
      const uint64_t pages = shared[0];
      if (pages == 0) {
        ::usleep(50);
        continue;
      }
      auto* bytes = static_cast<char*>(base);
      const int64_t begun_ns = monotonic_ns();
      for (uint64_t i = 0; i < pages; ++i) ++bytes[i * 2654435761U % (size / 4096) * 4096];
      shared[2] = static_cast<uint64_t>(monotonic_ns() - begun_ns);
      shared[0] = 0;
    }
  }
  void write(uint64_t pages) const {
    shared[0] = pages;
    while (pages != 0 && shared[0] != 0) ::usleep(500);
  }
};

// The writer does nothing between two orders: it need not be stopped.
Result<std::unique_ptr<DirtyTracker>> make_tracker(TrackerKind kind, Writer& writer) {
  switch (kind) {
    case TrackerKind::kUffdAsync:
      return make_uffd_async_tracker(writer.pid, std::move(writer.userfaultfd));
    case TrackerKind::kUffdSync:
      return make_uffd_sync_tracker(writer.pid, std::move(writer.userfaultfd));
    case TrackerKind::kSoftDirty:
      return make_soft_dirty_tracker(writer.pid, [](const auto& step) { return step(); });
    case TrackerKind::kInvalid:
      break;
  }
  return nullptr;
}

uint64_t megabytes() {
  const char* wanted = std::getenv("GODWIT_BENCH_MIB");
  return wanted != nullptr ? std::strtoull(wanted, nullptr, 10) : 1024;
}

// A tracked writer, or a reason why there is none.
struct Tracked {
  Writer writer{megabytes() << 20};
  std::unique_ptr<DirtyTracker> tracker;
  std::string error;

  Tracked(TrackerKind kind, bool follow) {
    auto made = make_tracker(kind, writer);
    if (made) tracker = std::move(*made);
    auto followed = !made ? Result<void>(std::unexpected(made.error())) : Result<void>();
    if (followed && follow && tracker) {
      if (auto first = tracker->follow(writer.vmas); !first) followed = std::unexpected(first.error());
    }
    if (!followed) error = followed.error().to_string();
  }
  [[nodiscard]] uint64_t pages(int64_t per_mille) const {
    return writer.size / 4096 * static_cast<uint64_t>(per_mille) / 1000;
  }
};

// Argument: dirty pages per 1000.
void collect_round(benchmark::State& state, TrackerKind kind, bool last) {
  Tracked tracked(kind, true);
  if (!tracked.error.empty()) return state.SkipWithError(tracked.error.c_str());
  const uint64_t dirty = tracked.pages(state.range(0));
  uint64_t found = 0;
  for (auto _ : state) {
    state.PauseTiming();
    Ranges ignored;
    if (last) (void)tracked.tracker->collect(ignored);
    tracked.writer.write(dirty);
    state.ResumeTiming();
    Ranges written;
    if (last) {
      SharedWork alone;
      auto round = tracked.tracker->collect_last(tracked.writer.vmas, alone);
      if (!round) return state.SkipWithError(round.error().to_string().c_str());
      written = std::move(round->written);
    } else {
      auto round = tracked.tracker->collect(ignored);
      if (!round) return state.SkipWithError(round.error().to_string().c_str());
      written = std::move(*round);
    }
    found = total_size(written) / 4096;
  }
  state.counters["dirty_pages"] = static_cast<double>(found);
}

void arm(benchmark::State& state, TrackerKind kind) {
  for (auto _ : state) {
    state.PauseTiming();
    Tracked tracked(kind, false);
    if (!tracked.error.empty()) return state.SkipWithError(tracked.error.c_str());
    state.ResumeTiming();
    if (!tracked.tracker->follow(tracked.writer.vmas)) return state.SkipWithError("follow failed");
    state.PauseTiming();
    (void)tracked.tracker->stop();
    state.ResumeTiming();
  }
}

// What a page of the process takes to be written the first time after a round; kInvalid: without a tracker.
void first_write(benchmark::State& state, TrackerKind kind) {
  Tracked tracked(kind, true);
  if (kind != TrackerKind::kInvalid && !tracked.error.empty())
    return state.SkipWithError(tracked.error.c_str());
  const uint64_t pages = tracked.pages(100);
  for (auto _ : state) {
    Ranges ignored;
    if (tracked.tracker) (void)tracked.tracker->collect(ignored);
    tracked.writer.write(pages);
    state.SetIterationTime(static_cast<double>(tracked.writer.shared[2]) / 1e9 / static_cast<double>(pages));
  }
}

void declare(TrackerKind kind) {
  const std::string name = name_of(kind);
  const auto add = [&](const char* what, auto run) {
    return benchmark::RegisterBenchmark((what + ("/" + name)).c_str(), run)
        ->Unit(benchmark::kMillisecond)
        ->UseRealTime();
  };
  add("arm", [kind](benchmark::State& state) { arm(state, kind); })->Iterations(2);
  for (const bool last : {false, true})
    add(last ? "last_round" : "live_round",
        [=](benchmark::State& state) { collect_round(state, kind, last); })
        ->ArgsProduct({{0, 1, 10, 100, 1000}})
        ->Iterations(5);
  benchmark::RegisterBenchmark(("first_write/" + name).c_str(),
                               [kind](benchmark::State& state) { first_write(state, kind); })
      ->Unit(benchmark::kMicrosecond)
      ->UseManualTime()
      ->Iterations(5);
}

}  // namespace
}  // namespace godwit::runtime

int main(int count, char** arguments) {
  using namespace godwit::runtime;  // NOLINT: a program of one file
  const TrackingAbilities& kernel = tracking_abilities();
  if (kernel.uffd_async) declare(TrackerKind::kUffdAsync);
  if (kernel.soft_dirty) declare(TrackerKind::kSoftDirty);
  if (kernel.uffd_sync) declare(TrackerKind::kUffdSync);
  benchmark::RegisterBenchmark("first_write/none",
                               [](benchmark::State& state) { first_write(state, TrackerKind::kInvalid); })
      ->Unit(benchmark::kMicrosecond)
      ->UseManualTime()
      ->Iterations(5);
  benchmark::Initialize(&count, arguments);
  if (benchmark::ReportUnrecognizedArguments(count, arguments)) return 1;
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}
