// What an injected system call costs: alone, and in batches.
#include <benchmark/benchmark.h>
#include <sys/syscall.h>

#include <cstdlib>

#include "runtime/process/puppet.h"
#include "tests/integration/process/victim.h"

namespace {

using godwit::runtime::CallBatch;
using godwit::runtime::Puppet;
using godwit::runtime::test::Shared;
using godwit::runtime::test::Victim;

void injected_calls(benchmark::State& state) {
  const Victim victim([](Shared&) {
    for (;;) ::pause();
  });
  auto puppet = Puppet::seize(victim.pid());
  if (!puppet.has_value() || !(*puppet)->wait_stopped().has_value() ||
      !(*puppet)->make_scratch().has_value()) {
    state.SkipWithError("this process cannot trace its child");
    return;
  }
  for (auto round : state) {
    CallBatch batch;
    for (int64_t i = 0; i < state.range(0); ++i) batch.call(SYS_getpid, {});
    if (!(*puppet)->run(batch).has_value()) state.SkipWithError("injection failed");
  }
  state.SetItemsProcessed(state.iterations() * state.range(0));
}
BENCHMARK(injected_calls)->Arg(1)->Arg(16)->Arg(64)->Arg(256)->Unit(benchmark::kMicrosecond);

void stop_and_release(benchmark::State& state) {
  const Victim victim([](Shared&) {
    for (;;) ::pause();
  });
  for (auto round : state) {
    auto puppet = Puppet::seize(victim.pid());
    if (!puppet.has_value() || !(*puppet)->wait_stopped().has_value() || !(*puppet)->release().has_value())
      state.SkipWithError("this process cannot trace its child");
  }
}
BENCHMARK(stop_and_release)->Unit(benchmark::kMicrosecond);

}  // namespace

BENCHMARK_MAIN();
