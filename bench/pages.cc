// What reading and storing pages costs: rounds of a page source, and the ways to fill a fresh address space.
// Needs root.
#include <benchmark/benchmark.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <thread>
#include <vector>

#include "runtime/memory/batch.h"
#include "runtime/memory/digest.h"
#include "runtime/memory/page_sink.h"
#include "runtime/memory/page_source.h"

namespace godwit::runtime {
namespace {

constexpr uint64_t kBase = 0x300000000000;
constexpr uint64_t kSize = uint64_t{512} << 20;
constexpr size_t kBuffer = size_t{1} << 20;

enum class Content { kFresh, kZero, kRandom };

// A sleeping child with kSize bytes at kBase.
struct Sleeper {
  pid_t pid = 0;
  explicit Sleeper(Content content, bool huge = false) {
    int ready[2];
    if (::pipe(ready) != 0) std::abort();
    pid = ::fork();
    if (pid == 0) {
      ::prctl(PR_SET_PDEATHSIG, SIGKILL);
      auto* words =
          static_cast<uint64_t*>(::mmap(reinterpret_cast<void*>(kBase), kSize, PROT_READ | PROT_WRITE,
                                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0));
      if (words == MAP_FAILED) ::_exit(1);
      if (huge) ::madvise(words, kSize, MADV_HUGEPAGE);
      if (content == Content::kZero) std::memset(words, 0, kSize);
      if (content == Content::kRandom)
        for (uint64_t i = 0; i < kSize / 8; ++i) words[i] = (i + 1) * 0x9e3779b97f4a7c15U;
      if (::write(ready[1], "x", 1) != 1) ::_exit(1);
      for (;;) ::pause();
    }
    char byte = 0;
    if (::read(ready[0], &byte, 1) != 1) std::abort();
    ::close(ready[0]);
    ::close(ready[1]);
  }
  Sleeper(const Sleeper&) = delete;
  Sleeper& operator=(const Sleeper&) = delete;
  ~Sleeper() {
    ::kill(pid, SIGKILL);
    ::waitpid(pid, nullptr, 0);
  }
  [[nodiscard]] MemoryView view() const {
    ProcessView process{.space_id = 1, .host_pid = pid, .vmas = {}, .kernel_bytes = {}};
    process.vmas.push_back(
        {.start = kBase, .end = kBase + kSize, .readable = true, .writable = true, .name = {}});
    return {.processes = {process}, .shared_memory = {}, .frozen = true};
  }
};

std::span<std::byte> buffer() {
  static void* memory =
      ::mmap(nullptr, kBuffer, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
  return {static_cast<std::byte*>(memory), kBuffer};
}

bool drain(PageSource& source) {
  for (;;) {
    const auto size = source.fill(buffer());
    if (!size) return false;
    if (*size == 0) return true;
  }
}

// Round 0: everything is read, hashed and packed.
void read_first_round(benchmark::State& state) {
  const Sleeper sleeper(state.range(0) != 0 ? Content::kRandom : Content::kZero);
  for (auto _ : state) {
    PageSource source;
    if (!source.begin_round(sleeper.view()) || !drain(source))
      return state.SkipWithError("failed (run as root)");
  }
  state.SetBytesProcessed(state.iterations() * static_cast<int64_t>(kSize));
}

// Pages that were written with what they held: read, hashed and left out.
void read_unchanged(benchmark::State& state) {
  const Sleeper sleeper(Content::kRandom);
  PageSource source;
  if (!source.begin_round(sleeper.view()) || !drain(source))
    return state.SkipWithError("failed (run as root)");
  for (auto _ : state)
    if (!source.begin_round(sleeper.view()) || !drain(source)) return state.SkipWithError("failed");
  state.SetBytesProcessed(state.iterations() * static_cast<int64_t>(kSize));
}

std::vector<std::byte> batch_of(uint64_t start, uint64_t stride, size_t& pages) {
  std::vector<std::byte> memory(kBuffer);
  BatchBuilder batch(memory);
  pages = batch.room();
  for (size_t i = 0; i < pages; ++i) {
    std::memset(batch.free_pages(), 7, kPageSize);
    batch.add_page(SpaceKind::kProcess, 1, start + i * stride, batch.free_pages());
  }
  memory.resize(batch.finish());
  return memory;
}

// Arguments: threads, whether the pages are there already, huge pages advised.
void store(benchmark::State& state) {
  const auto threads = static_cast<size_t>(state.range(0));
  int64_t bytes = 0;
  for (auto _ : state) {
    state.PauseTiming();
    const Sleeper sleeper(state.range(1) != 0 ? Content::kRandom : Content::kFresh, state.range(2) != 0);
    PageSink sink;
    if (!sink.set_spaces({{.kind = SpaceKind::kProcess, .id = 1, .host_pid = sleeper.pid, .allowed = {}}}))
      return state.SkipWithError("failed (run as root)");
    std::vector<std::vector<std::byte>> batches;
    for (uint64_t at = kBase; at + kBuffer <= kBase + kSize / 2;) {
      size_t pages = 0;
      batches.push_back(batch_of(at, kPageSize, pages));
      at += pages * kPageSize;
      bytes += static_cast<int64_t>(pages * kPageSize);
    }
    state.ResumeTiming();
    std::atomic<size_t> next{0};
    std::vector<std::jthread> helpers;
    for (size_t i = 0; i < threads; ++i)
      helpers.emplace_back([&] {
        for (size_t at = next++; at < batches.size(); at = next++)
          if (!sink.apply(batches[at])) std::abort();
      });
    helpers.clear();
  }
  state.SetBytesProcessed(bytes);
}

void digest(benchmark::State& state) {
  const Sleeper sleeper(Content::kRandom);
  for (auto _ : state)
    if (!digest_memory(sleeper.view())) return state.SkipWithError("failed (run as root)");
  state.SetBytesProcessed(state.iterations() * static_cast<int64_t>(kSize));
}

BENCHMARK(read_first_round)
    ->ArgName("random")
    ->Arg(0)
    ->Arg(1)
    ->Iterations(3)
    ->Unit(benchmark::kMillisecond)
    ->UseRealTime();
BENCHMARK(read_unchanged)->Iterations(3)->Unit(benchmark::kMillisecond)->UseRealTime();
BENCHMARK(store)
    ->ArgNames({"threads", "present", "huge"})
    ->ArgsProduct({{1, 2}, {0, 1}, {0, 1}})
    ->Iterations(2)
    ->Unit(benchmark::kMillisecond)
    ->UseRealTime();
BENCHMARK(digest)->Iterations(3)->Unit(benchmark::kMillisecond)->UseRealTime();

}  // namespace
}  // namespace godwit::runtime

BENCHMARK_MAIN();
