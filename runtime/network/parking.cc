#include "runtime/network/parking.h"

#include <fcntl.h>
#include <net/ethernet.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <cstring>
#include <string>
#include <utility>

#include "base/clock.h"
#include "runtime/network/bpf.h"
#include "runtime/network/grace.h"
#include "runtime/network/ingress_filter.h"
#include "runtime/network/leftovers.h"
#include "runtime/network/loopback_gate.h"
#include "runtime/network/namespace.h"
#include "runtime/network/netlink.h"
#include "runtime/network/parking_programs.h"
#include "runtime/network/tap.h"

namespace godwit::runtime {
namespace {

// 16,384 full frames are 25 MB, or 200 ms of 1 Gbit/s.
constexpr uint32_t kParkedFramesMax = 16'384;
// A frame on its way to the tap arrives within microseconds. Frames that the kernel dropped (a full queue)
// never do: after this much silence unpark() stops waiting for them.
constexpr int kSilenceMs = 5;
// A stream that fills the link may keep pace with putting frames back; then order is given up.
constexpr int64_t kOrderedDrainUsMax = 50'000;
constexpr int64_t kUnorderedDrainUsMax = 2'000'000;

// The ParkState shared with the programs.
class SharedState {
 public:
  static Result<SharedState> map(int fd) {
    // A mapping of an array map is whole pages (bpf(2), BPF_F_MMAPABLE).
    void* const memory = ::mmap(nullptr, bytes(), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (memory == MAP_FAILED) return fail("map", "the parking programs' state");
    return SharedState(static_cast<ParkState*>(memory));
  }
  SharedState(SharedState&& other) noexcept : state_(std::exchange(other.state_, nullptr)) {}
  SharedState(const SharedState&) = delete;
  SharedState& operator=(const SharedState&) = delete;
  SharedState& operator=(SharedState&&) = delete;
  ~SharedState() {
    if (state_ != nullptr) ::munmap(state_, bytes());
  }

  void set_mode(ParkMode mode) { std::atomic_ref(state_->mode).store(static_cast<uint32_t>(mode)); }
  [[nodiscard]] bool open() const {
    return std::atomic_ref(state_->mode).load() == static_cast<uint32_t>(ParkMode::kOpen);
  }
  void set_sealed(bool sealed) { std::atomic_ref(state_->sealed).store(sealed ? 1 : 0); }
  [[nodiscard]] bool sealed() const { return std::atomic_ref(state_->sealed).load() != 0; }
  [[nodiscard]] uint64_t parked() const { return std::atomic_ref(state_->parked).load(); }
  void set_released(uint64_t frames) { std::atomic_ref(state_->released).store(frames); }
  [[nodiscard]] uint64_t dropped_own() const { return std::atomic_ref(state_->dropped_own).load(); }

 private:
  explicit SharedState(ParkState* state) : state_(state) {}
  static size_t bytes() { return static_cast<size_t>(::sysconf(_SC_PAGESIZE)); }
  ParkState* state_;
};

class BpfParkingLot final : public ParkingLot {
 public:
  BpfParkingLot(Attachment attachment, MacAddress mac, Port port, LoopbackGate loopback, uint32_t mtu,
                Tap tap, SharedState state)
      : attachment_(std::move(attachment)),
        mac_(mac),
        port_(std::move(port)),
        loopback_(std::move(loopback)),
        tap_(std::move(tap)),
        state_(std::move(state)),
        // A VLAN tag or two fit beside the header.
        buffer_(mtu + sizeof(ether_header) + 8) {}
  BpfParkingLot(const BpfParkingLot&) = delete;
  BpfParkingLot& operator=(const BpfParkingLot&) = delete;
  ~BpfParkingLot() override {
    if (state_.sealed()) stay_sealed();
    // Whatever unpark() could not do, the end of the filters below does: packets flow again.
    else if (!state_.open())
      (void)unpark({});
    container_filter_.detach();
  }

  Result<void> attach(int state_map, IngressMethod method);
  Result<void> park_newcomers() override { return park_in(ParkMode::kNewcomersParked); }
  Result<void> park() override;
  Result<void> park_ingress() override { return park_in(ParkMode::kIngressParked); }
  Result<void> seal() override;
  Result<void> unpark(const std::vector<std::vector<std::byte>>& unsent) override;
  Result<void> forward_elsewhere() override;
  [[nodiscard]] int fd() const override { return tap_.fd.get(); }
  Result<std::optional<std::vector<std::byte>>> read_frame() override;
  [[nodiscard]] ParkingStatistics statistics() const override {
    return {.parked = state_.parked(),
            .read = read_,
            .dropped_own = state_.dropped_own(),
            .order_given_up = order_given_up_};
  }

 private:
  Result<void> park_in(ParkMode mode);
  Result<std::span<const std::byte>> read_any();
  [[nodiscard]] bool for_container(std::span<const std::byte> frame) const;
  [[nodiscard]] Result<void> inject(std::span<const std::byte> frame) const;
  Result<void> put_back_what_waits(int64_t deadline_us, bool release);
  Result<bool> drain_in_order();
  Result<void> drain_unordered();
  [[nodiscard]] bool frame_arrives() const;
  void stay_sealed();

  Attachment attachment_;
  MacAddress mac_;
  Port port_;
  LoopbackGate loopback_;
  Tap tap_;
  SharedState state_;
  std::vector<std::byte> buffer_;
  uint64_t read_ = 0;
  uint64_t lost_ = 0;
  bool order_given_up_ = false;
  IngressFilter host_filter_;
  IngressFilter tap_filter_;
  IngressFilter container_filter_;
};

// The container is not this process's to open any more: the programs stay, as after its death.
void BpfParkingLot::stay_sealed() {
  container_filter_.leave();
  host_filter_.leave();
  loopback_.leave();
}

// The container's program is attached last and detached first: while it sends frames back, the one that
// catches them is there.
Result<void> BpfParkingLot::attach(int state_map, IngressMethod method) {
  GODWIT_ASSIGN(const uint32_t host_index, interface_index(attachment_.host_interface));
  uint32_t container_index = 0;
  const auto find_index = [&]() -> Result<void> {
    GODWIT_ASSIGN(container_index, interface_index(attachment_.container_interface));
    return {};
  };
  GODWIT_TRY(run_in_network_namespace(attachment_.network_namespace, find_index));
  GODWIT_ASSIGN(
      const ParkPrograms programs,
      load_park_programs(state_map,
                         {.container = container_index, .host = host_index, .tap = tap_.index, .mac = mac_}));
  GODWIT_ASSIGN(tap_filter_, IngressFilter::attach(programs.tap.get(), tap_.index, tap_.name, method));
  GODWIT_ASSIGN(host_filter_,
                IngressFilter::attach(programs.host.get(), host_index, attachment_.host_interface, method));
  return run_in_network_namespace(attachment_.network_namespace, [&]() -> Result<void> {
    GODWIT_ASSIGN(container_filter_, IngressFilter::attach(programs.container.get(), container_index,
                                                           attachment_.container_interface, method));
    return {};
  });
}

// A datagram that the container has sent to itself gets to its socket before sockets are read.
Result<void> BpfParkingLot::park() {
  wait_for_queued_packets();
  loopback_.shut();
  return park_in(ParkMode::kParked);
}

Result<void> BpfParkingLot::park_in(ParkMode mode) {
  state_.set_mode(mode);
  auto waited = wait_for_packet_processing();
  if (!waited) (void)unpark({});
  return waited;
}

Result<void> BpfParkingLot::seal() {
  if (state_.open()) return refuse("seal the port of", attachment_.host_interface, "it is not parked");
  state_.set_sealed(true);
  return {};
}

// Empty if there is no frame.
Result<std::span<const std::byte>> BpfParkingLot::read_any() {
  for (;;) {
    const ssize_t count = ::read(tap_.fd.get(), buffer_.data(), buffer_.size());
    if (count > 0) {
      ++read_;
      return std::span<const std::byte>(buffer_.data(), static_cast<size_t>(count));
    }
    if (count < 0 && errno == EINTR) continue;
    if (count == 0 || errno == EAGAIN) return std::span<const std::byte>();
    return fail("read a parked frame from", tap_.name);
  }
}

bool BpfParkingLot::for_container(std::span<const std::byte> frame) const {
  if (frame.size() < sizeof(ether_header)) return false;
  const bool group = (std::to_integer<unsigned>(frame[0]) & 1) != 0;
  return group || std::memcmp(frame.data(), mac_.data(), mac_.size()) == 0;
}

Result<std::optional<std::vector<std::byte>>> BpfParkingLot::read_frame() {
  for (;;) {
    GODWIT_ASSIGN(const auto frame, read_any());
    if (frame.empty()) return std::nullopt;
    if (for_container(frame)) return std::vector<std::byte>(frame.begin(), frame.end());
  }
}

Result<void> BpfParkingLot::inject(std::span<const std::byte> frame) const {
  while (::write(tap_.fd.get(), frame.data(), frame.size()) != static_cast<ssize_t>(frame.size()))
    if (errno != EINTR) return fail("put a parked frame back by", tap_.name);
  return {};
}

// Until the tap is empty or time is up. A frame that cannot be put back is counted as lost: the others must
// not wait for it.
Result<void> BpfParkingLot::put_back_what_waits(int64_t deadline_us, bool release) {
  while (monotonic_us() < deadline_us) {
    GODWIT_ASSIGN(const auto frame, read_any());
    if (frame.empty()) return {};
    if (for_container(frame) && !inject(frame)) ++lost_;
    if (release) state_.set_released(read_);
  }
  return {};
}

// The programs let a new frame pass as soon as all that were parked before it have been put back, and park it
// else: so this ends as soon as putting back is faster than the arrival of frames for a moment.
Result<bool> BpfParkingLot::drain_in_order() {
  state_.set_released(read_);
  state_.set_mode(ParkMode::kDraining);
  const int64_t deadline_us = monotonic_us() + kOrderedDrainUsMax;
  while (monotonic_us() < deadline_us) {
    GODWIT_TRY(put_back_what_waits(deadline_us, true));
    if (state_.parked() > read_) {
      if (!frame_arrives()) return false;
      continue;
    }
    // A CPU may have decided to park a frame just before the last one was put back.
    GODWIT_TRY(wait_for_packet_processing());
    if (state_.parked() <= read_) return true;
  }
  return false;
}

// New frames pass at once; those that were parked follow. Frames on their way to the tap must not meet
// programs that are off, or the bridge would learn their sender's address at the wrong port.
Result<void> BpfParkingLot::drain_unordered() {
  state_.set_released(UINT64_MAX);
  GODWIT_TRY(wait_for_packet_processing());
  // Bounded by the length of the tap's queue; the time is for a machine that hardly runs.
  const int64_t deadline_us = monotonic_us() + kUnorderedDrainUsMax;
  do {
    GODWIT_TRY(put_back_what_waits(deadline_us, false));
  } while (state_.parked() > read_ && monotonic_us() < deadline_us && frame_arrives());
  return {};
}

bool BpfParkingLot::frame_arrives() const {
  pollfd wait{.fd = tap_.fd.get(), .events = POLLIN, .revents = 0};
  return ::poll(&wait, 1, kSilenceMs) > 0;
}

Result<void> BpfParkingLot::unpark(const std::vector<std::vector<std::byte>>& unsent) {
  lost_ = 0;
  loopback_.open();
  for (const auto& frame : unsent)
    if (!inject(frame)) ++lost_;
  Result<void> drained;
  const auto in_order = drain_in_order();
  if (!in_order || !*in_order) {
    order_given_up_ = true;
    drained = drain_unordered();
  }
  // Whatever failed: an open container with a frame lost is better than a closed one.
  state_.set_sealed(false);
  state_.set_mode(ParkMode::kOpen);
  GODWIT_TRY(drained);
  if (lost_ > 0)
    return refuse("put parked frames back by", tap_.name,
                  std::to_string(lost_) + " of them could not be delivered");
  return {};
}

Result<void> BpfParkingLot::forward_elsewhere() {
  GODWIT_TRY(seal());
  GODWIT_TRY(port_.hold());
  return port_.forget_container();
}

}  // namespace

Result<std::unique_ptr<ParkingLot>> ParkingLot::prepare(const Attachment& attachment, IngressMethod method) {
  GODWIT_ASSIGN(const MacAddress mac, parse_mac(attachment.mac));
  GODWIT_ASSIGN(Port port, Port::prepare(attachment));
  GODWIT_ASSIGN(const uint32_t mtu, interface_mtu(attachment.host_interface));
  GODWIT_TRY(remove_park_programs(attachment));
  GODWIT_ASSIGN(LoopbackGate loopback, LoopbackGate::prepare(attachment.network_namespace, method));
  GODWIT_ASSIGN(Tap tap, make_tap(mac, mtu, kParkedFramesMax));
  GODWIT_ASSIGN(const Fd map, make_shared_value(sizeof(ParkState)));
  GODWIT_ASSIGN(SharedState state, SharedState::map(map.get()));
  auto lot = std::make_unique<BpfParkingLot>(attachment, mac, std::move(port), std::move(loopback), mtu,
                                             std::move(tap), std::move(state));
  GODWIT_TRY(lot->attach(map.get(), method));
  return lot;
}

}  // namespace godwit::runtime
