// What dirty tracking costs: one round over 1 GiB at several shares of dirty pages, in a running and in a
// frozen process. Needs root.
#include <benchmark/benchmark.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstring>

#include "runtime/memory/dirty_tracker.h"

namespace godwit::runtime {
namespace {

constexpr uint64_t kBase = 0x300000000000;

// A child with `size` bytes of populated memory that writes one byte to each of so many pages when told.
struct Writer {
  pid_t pid = 0;
  uint64_t size = 0;
  volatile uint64_t* shared = nullptr;  // [0] pages to write, [1] userfaultfd + 1
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
    std::memset(base, 1, size);
    shared[1] = static_cast<uint64_t>(::syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK)) + 1;
    for (;;) {
      const uint64_t pages = shared[0];
      if (pages == 0) {
        ::usleep(50);
        continue;
      }
      auto* bytes = static_cast<char*>(base);
      for (uint64_t i = 0; i < pages; ++i) ++bytes[i * 2654435761U % (size / 4096) * 4096];
      shared[0] = 0;
    }
  }
  void write(uint64_t pages) const {
    shared[0] = pages;
    while (pages != 0 && shared[0] != 0) ::usleep(50);
  }
};

void report(benchmark::State& state, uint64_t pages) {
  state.counters["dirty_pages"] = static_cast<double>(pages);
}

// Arguments: MiB, dirty pages per 1000.
void collect_round(benchmark::State& state, bool last) {
  Writer writer(static_cast<uint64_t>(state.range(0)) << 20);
  auto tracker = make_uffd_async_tracker(writer.pid, std::move(writer.userfaultfd));
  if (!tracker || !(*tracker)->follow(writer.vmas)) return state.SkipWithError("no tracker (run as root)");
  const uint64_t dirty = writer.size / 4096 * static_cast<uint64_t>(state.range(1)) / 1000;
  uint64_t found = 0;
  for (auto _ : state) {
    state.PauseTiming();
    Ranges ignored;
    if (last) (void)(*tracker)->collect(ignored);
    writer.write(dirty);
    state.ResumeTiming();
    Ranges written;
    if (last) {
      auto round = (*tracker)->collect_last(writer.vmas);
      if (!round) return state.SkipWithError(round.error().to_string().c_str());
      written = std::move(round->written);
    } else {
      auto round = (*tracker)->collect(ignored);
      if (!round) return state.SkipWithError(round.error().to_string().c_str());
      written = std::move(*round);
    }
    found = total_size(written) / 4096;
  }
  report(state, found);
  (void)(*tracker)->stop();
}

void live_round(benchmark::State& state) {
  collect_round(state, false);
}
void last_round(benchmark::State& state) {
  collect_round(state, true);
}

void first_follow(benchmark::State& state) {
  for (auto _ : state) {
    state.PauseTiming();
    Writer writer(static_cast<uint64_t>(state.range(0)) << 20);
    auto tracker = make_uffd_async_tracker(writer.pid, std::move(writer.userfaultfd));
    if (!tracker) return state.SkipWithError("no tracker (run as root)");
    state.ResumeTiming();
    if (!(*tracker)->follow(writer.vmas)) return state.SkipWithError("follow failed");
    state.PauseTiming();
    (void)(*tracker)->stop();
    state.ResumeTiming();
  }
}

BENCHMARK(live_round)
    ->ArgsProduct({{1024}, {0, 1, 10, 100, 1000}})
    ->Iterations(10)
    ->Unit(benchmark::kMillisecond)
    ->UseRealTime();
BENCHMARK(last_round)
    ->ArgsProduct({{1024}, {0, 1, 10, 100, 1000}})
    ->Iterations(10)
    ->Unit(benchmark::kMillisecond)
    ->UseRealTime();
BENCHMARK(last_round)
    ->Args({256, 0})
    ->Args({4096, 0})
    ->Iterations(10)
    ->Unit(benchmark::kMillisecond)
    ->UseRealTime();
BENCHMARK(first_follow)->Arg(1024)->Iterations(2)->Unit(benchmark::kMillisecond)->UseRealTime();

}  // namespace
}  // namespace godwit::runtime

BENCHMARK_MAIN();
