// What a link over loopback moves, and how long a small batch with a barrier takes: the last step of a
// cutover. Time is wall time; CPU is that of the whole process, both ends.
#include <benchmark/benchmark.h>

#include <memory>
#include <thread>

#include "base/clock.h"
#include "transport/tcp/tcp_link.h"

namespace godwit::transport {
namespace {

constexpr int64_t kRoundBytes = int64_t{64} << 20;
constexpr int64_t kDeadlineNs = 60'000'000'000;

// A link whose target takes every batch at once and gives it back.
class Loop {
 public:
  Loop(TcpIo io, const LinkOptions& options) {
    auto listener = TcpLinkListener::listen("127.0.0.1", 0, io);
    if (!listener) return;
    const int64_t deadline_ns = monotonic_ns() + kDeadlineNs;
    Result<std::unique_ptr<LinkReceiver>> accepted;
    std::thread target([&] { accepted = listener->accept(deadline_ns); });
    auto connected =
        connect_tcp_link("127.0.0.1", listener->port(), listener->token(), options, deadline_ns, io);
    target.join();
    if (!connected || !accepted) return;
    receiver_ = std::move(*accepted);
    sender_ = std::move(*connected);
    reader_ = std::thread([this] { read_all(); });
  }
  Loop(const Loop&) = delete;
  Loop& operator=(const Loop&) = delete;
  ~Loop() {
    sender_.reset();
    if (reader_.joinable()) reader_.join();
  }

  [[nodiscard]] LinkSender* sender() const { return sender_.get(); }

 private:
  void read_all() {
    for (;;) {
      auto batch = receiver_->receive();
      if (!batch || !batch->has_value()) return;
      if (!receiver_->release(**batch)) return;
    }
  }

  std::unique_ptr<LinkReceiver> receiver_;
  std::unique_ptr<LinkSender> sender_;
  std::thread reader_;
};

bool send(LinkSender& sender, uint32_t stream, uint32_t size) {
  auto buffer = sender.acquire(stream);
  return buffer && sender.submit(*buffer, size);
}

TcpIo io_of(const benchmark::State& state) {
  constexpr TcpIo kIos[] = {TcpIo::kIoUring, TcpIo::kIoUringZeroCopy, TcpIo::kSockets};
  return kIos[state.range(0)];
}

void throughput(benchmark::State& state) {
  const auto buffer_bytes = static_cast<uint32_t>(state.range(1) << 10);
  const auto streams = static_cast<uint32_t>(state.range(2));
  const Loop loop(io_of(state), {.streams = streams, .buffer_bytes = buffer_bytes});
  if (loop.sender() == nullptr) return state.SkipWithError("no such link on this host");
  state.SetLabel(loop.sender()->name());
  const int64_t batches = kRoundBytes / buffer_bytes;
  for (auto _ : state) {
    for (int64_t i = 0; i < batches; ++i)
      if (!send(*loop.sender(), static_cast<uint32_t>(i) % streams, buffer_bytes))
        return state.SkipWithError("the link broke");
    if (!loop.sender()->barrier(0)) return state.SkipWithError("the link broke");
  }
  state.SetBytesProcessed(state.iterations() * kRoundBytes);
}

void barrier_latency(benchmark::State& state) {
  const Loop loop(io_of(state), {});
  if (loop.sender() == nullptr) return state.SkipWithError("no such link on this host");
  state.SetLabel(loop.sender()->name());
  for (auto _ : state)
    if (!send(*loop.sender(), 0, 4096) || !loop.sender()->barrier(0))
      return state.SkipWithError("the link broke");
}

BENCHMARK(throughput)
    ->ArgNames({"io", "buffer_kib", "streams"})
    ->ArgsProduct({{0, 1, 2}, {256, 1024}, {1, 2}})
    ->Iterations(8)
    ->Unit(benchmark::kMillisecond)
    ->MeasureProcessCPUTime()
    ->UseRealTime();
BENCHMARK(barrier_latency)
    ->ArgName("io")
    ->DenseRange(0, 2)
    ->Iterations(5000)
    ->Unit(benchmark::kMicrosecond)
    ->MeasureProcessCPUTime()
    ->UseRealTime();

}  // namespace
}  // namespace godwit::transport

BENCHMARK_MAIN();
