// What a link moves, and how long a small batch with a barrier takes: the last step of a cutover. Over
// loopback for TCP; for RDMA between two devices of this host, or within its only one. Time is wall time; CPU
// is that of the whole process, both ends.
#include <benchmark/benchmark.h>

#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "base/clock.h"
#include "transport/rdma/device.h"
#include "transport/rdma/rdma_link.h"
#include "transport/tcp/tcp_link.h"

namespace godwit::transport {
namespace {

constexpr int64_t kRoundBytes = int64_t{64} << 20;
constexpr int64_t kDeadlineNs = 60'000'000'000;

enum class Kind : int64_t { kIoUring, kIoUringZeroCopy, kSockets, kRdma };

struct Ends {
  std::unique_ptr<LinkSender> sender;
  std::unique_ptr<LinkReceiver> receiver;
};

template <typename Listener, typename Connect>
Result<Ends> join(Listener& listener, const Connect& connect) {
  Result<std::unique_ptr<LinkReceiver>> accepted;
  std::thread target([&] { accepted = listener.accept(monotonic_ns() + kDeadlineNs); });
  auto connected = connect();
  target.join();
  Ends ends;
  GODWIT_ASSIGN(ends.sender, std::move(connected));
  GODWIT_ASSIGN(ends.receiver, std::move(accepted));
  return ends;
}

Result<Ends> make_rdma_link(const LinkOptions& options) {
  std::vector<std::string> addresses;
  for (const RdmaDevice& device : list_rdma_devices()) {
    if (!device.usable) continue;
    GODWIT_ASSIGN(addresses.emplace_back(), address_of_device(device.name));
  }
  if (addresses.empty()) return fail("use", "RDMA", ENODEV);
  GODWIT_ASSIGN(RdmaLinkListener listener, RdmaLinkListener::listen(addresses.front()));
  return join(listener, [&] {
    return connect_rdma_link(addresses.front(), listener.port(), listener.token(), options,
                             monotonic_ns() + kDeadlineNs, addresses.back());
  });
}

Result<Ends> make_link(Kind kind, const LinkOptions& options) {
  if (kind == Kind::kRdma) return make_rdma_link(options);
  const TcpIo io = kind == Kind::kIoUring           ? TcpIo::kIoUring
                   : kind == Kind::kIoUringZeroCopy ? TcpIo::kIoUringZeroCopy
                                                    : TcpIo::kSockets;
  GODWIT_ASSIGN(TcpLinkListener listener, TcpLinkListener::listen("127.0.0.1", 0, io));
  return join(listener, [&] {
    return connect_tcp_link("127.0.0.1", listener.port(), listener.token(), options,
                            monotonic_ns() + kDeadlineNs, io);
  });
}

// A link whose target takes every batch at once and gives it back.
class Loop {
 public:
  Loop(Kind kind, const LinkOptions& options) {
    auto ends = make_link(kind, options);
    if (!ends) return;
    receiver_ = std::move(ends->receiver);
    sender_ = std::move(ends->sender);
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

Kind kind_of(const benchmark::State& state) {
  return static_cast<Kind>(state.range(0));
}

void throughput(benchmark::State& state) {
  const auto buffer_bytes = static_cast<uint32_t>(state.range(1) << 10);
  const auto streams = static_cast<uint32_t>(state.range(2));
  const Loop loop(kind_of(state), {.streams = streams, .buffer_bytes = buffer_bytes});
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
  const Loop loop(kind_of(state), {});
  if (loop.sender() == nullptr) return state.SkipWithError("no such link on this host");
  state.SetLabel(loop.sender()->name());
  for (auto _ : state)
    if (!send(*loop.sender(), 0, 4096) || !loop.sender()->barrier(0))
      return state.SkipWithError("the link broke");
}

BENCHMARK(throughput)
    ->ArgNames({"kind", "buffer_kib", "streams"})
    ->ArgsProduct({{0, 1, 2, 3}, {256, 1024}, {1, 2}})
    ->Iterations(8)
    ->Unit(benchmark::kMillisecond)
    ->MeasureProcessCPUTime()
    ->UseRealTime();
BENCHMARK(barrier_latency)
    ->ArgName("kind")
    ->DenseRange(0, 3)
    ->Iterations(5000)
    ->Unit(benchmark::kMicrosecond)
    ->MeasureProcessCPUTime()
    ->UseRealTime();

}  // namespace
}  // namespace godwit::transport

BENCHMARK_MAIN();
