// SocketIo by io_uring(7): registered files, registered memory, one ring.
//
// Receives are READ_FIXED into registered memory: the kernel holds the pages, so a receive that is cut short
// by the end of the process's interest can never write into memory that has become something else's.
//
// Sends are SEND with MSG_WAITALL, which the kernel continues by itself when the socket buffer has room
// again. WRITE_FIXED would raise SIGPIPE on a cut connection, as there is no flag to say MSG_NOSIGNAL.
//
// SEND_ZC is there on demand only. Over loopback it costs more than it saves: 32.4 ms of CPU, both ends
// together, for 64 MiB in batches of 1 MiB, against 20.4 ms by SEND (and 18.9 ms by plain sockets); medians
// of five runs of bench/link.cc on a busy machine, Linux 6.18, standard deviation 2 to 4 ms. A batch with its
// barrier costs 26 us of CPU against 21 us. Loopback says nothing about a network card with scatter-gather:
// measure there before choosing it.
#include <liburing.h>
#include <sys/socket.h>

#include <algorithm>
#include <cstring>

#include "base/clock.h"
#include "transport/tcp/frame.h"
#include "transport/tcp/socket.h"
#include "transport/tcp/socket_io.h"

namespace godwit::transport {
namespace {

using Event = SocketIo::Event;

constexpr unsigned kEntries = 64;  // more than one send and one receive of each of kStreamsMax sockets
static_assert(kEntries >= 2 * kStreamsMax);
constexpr int64_t kDrainWaitNs = 1'000'000'000;
// io_uring_register(2): the size of one registered buffer.
constexpr size_t kRegisteredBytesMax = size_t{1} << 30;
static_assert(kLinkBytesMax * 2 <= kRegisteredBytesMax);

uint64_t pack(Event event, uint32_t socket, uint32_t tag) {
  return static_cast<uint64_t>(event) << 56 | static_cast<uint64_t>(socket) << 32 | tag;
}

const char* setup_hint(int code) {
  switch (code) {
    case ENOSYS:
      return "this kernel has no io_uring: it needs Linux 5.19 with CONFIG_IO_URING";
    case EPERM:
    case EACCES:
      return "io_uring is forbidden here: set sysctl kernel.io_uring_disabled=0, or allow io_uring_setup, "
             "io_uring_enter and io_uring_register in the seccomp filter";
    case ENOMEM:
      return "not enough lockable memory: raise RLIMIT_MEMLOCK (ulimit -l) or grant CAP_IPC_LOCK";
    default:
      return "";
  }
}

std::unexpected<Error> setup_failure(const char* operation, int code) {
  return fail(operation, "io_uring", code, setup_hint(code));
}

class UringIo final : public SocketIo {
 public:
  explicit UringIo(bool zero_copy) : zero_copy_(zero_copy) {}
  UringIo(const UringIo&) = delete;
  UringIo& operator=(const UringIo&) = delete;
  ~UringIo() override;

  Result<void> init(std::span<const int> sockets, std::span<std::byte> memory);
  [[nodiscard]] const char* name() const override { return zero_copy_ ? "tcp+io_uring+zc" : "tcp+io_uring"; }
  Result<void> start_send(uint32_t socket, uint32_t tag, std::span<const std::byte> bytes) override;
  Result<void> start_receive(uint32_t socket, std::span<std::byte> bytes) override;
  Result<void> reap(int64_t deadline_ns, std::vector<Completion>& completions) override;
  Result<void> reap_ready(std::vector<Completion>& completions) override;

 private:
  Result<io_uring_sqe*> next_entry();
  Result<void> submit();
  void collect(std::vector<Completion>& completions);

  bool zero_copy_;
  bool ready_ = false;
  uint32_t under_way_ = 0;  // completions that the kernel still owes us
  io_uring ring_{};
};

Result<void> UringIo::init(std::span<const int> sockets, std::span<std::byte> memory) {
  int status = ::io_uring_queue_init(kEntries, &ring_, 0);
  if (status < 0) return setup_failure("set up", -status);
  ready_ = true;
  if ((ring_.features & IORING_FEAT_EXT_ARG) == 0) return setup_failure("wait with a deadline in", ENOSYS);
  status = ::io_uring_register_files(&ring_, sockets.data(), static_cast<unsigned>(sockets.size()));
  if (status < 0) return setup_failure("register the link's sockets with", -status);
  const iovec whole{.iov_base = memory.data(), .iov_len = memory.size()};
  status = ::io_uring_register_buffers(&ring_, &whole, 1);
  if (status < 0) return setup_failure("register the link's buffers with", -status);
  return {};
}

UringIo::~UringIo() {
  if (!ready_) return;
  const int64_t deadline_ns = monotonic_ns() + kDrainWaitNs;
  std::vector<Completion> rest;
  while (under_way_ > 0 && !has_passed(deadline_ns))
    if (!reap(deadline_ns, rest)) break;
  ::io_uring_queue_exit(&ring_);
}

Result<io_uring_sqe*> UringIo::next_entry() {
  io_uring_sqe* entry = ::io_uring_get_sqe(&ring_);
  if (entry == nullptr) {
    GODWIT_TRY(submit());
    entry = ::io_uring_get_sqe(&ring_);
  }
  if (entry == nullptr) return fail("queue a request in", "io_uring", EBUSY);
  return entry;
}

Result<void> UringIo::submit() {
  for (;;) {
    const int status = ::io_uring_submit(&ring_);
    if (status >= 0) return {};
    if (status != -EINTR) return fail("submit to", "io_uring", -status);
  }
}

Result<void> UringIo::start_send(uint32_t socket, uint32_t tag, std::span<const std::byte> bytes) {
  GODWIT_ASSIGN(io_uring_sqe* const entry, next_entry());
  constexpr int kFlags = MSG_NOSIGNAL | MSG_WAITALL;
  if (zero_copy_)
    ::io_uring_prep_send_zc_fixed(entry, static_cast<int>(socket), bytes.data(), bytes.size(), kFlags, 0, 0);
  else
    ::io_uring_prep_send(entry, static_cast<int>(socket), bytes.data(), bytes.size(), kFlags);
  entry->flags |= IOSQE_FIXED_FILE;
  entry->user_data = pack(Event::kSent, socket, tag);
  ++under_way_;
  return submit();
}

Result<void> UringIo::start_receive(uint32_t socket, std::span<std::byte> bytes) {
  GODWIT_ASSIGN(io_uring_sqe* const entry, next_entry());
  ::io_uring_prep_read_fixed(entry, static_cast<int>(socket), bytes.data(),
                             static_cast<unsigned>(bytes.size()), 0, 0);
  entry->flags |= IOSQE_FIXED_FILE;
  entry->user_data = pack(Event::kReceived, socket, 0);
  ++under_way_;
  return {};
}

void UringIo::collect(std::vector<Completion>& completions) {
  io_uring_cqe* found = nullptr;
  unsigned head = 0;
  unsigned count = 0;
  io_uring_for_each_cqe(&ring_, head, found) {
    ++count;
    Completion completion{.event = static_cast<Event>(found->user_data >> 56),
                          .buffer_held = (found->flags & IORING_CQE_F_MORE) != 0,
                          .socket = static_cast<uint32_t>(found->user_data >> 32) & 0xffffff,
                          .tag = static_cast<uint32_t>(found->user_data),
                          .result = found->res};
    if ((found->flags & IORING_CQE_F_NOTIF) != 0) completion.event = Event::kBufferFree;
    if (!completion.buffer_held) --under_way_;
    completions.push_back(completion);
  }
  ::io_uring_cq_advance(&ring_, count);
}

Result<void> UringIo::reap_ready(std::vector<Completion>& completions) {
  completions.clear();
  if (::io_uring_sq_ready(&ring_) != 0) GODWIT_TRY(submit());
  collect(completions);
  return {};
}

Result<void> UringIo::reap(int64_t deadline_ns, std::vector<Completion>& completions) {
  for (;;) {
    GODWIT_TRY(reap_ready(completions));
    if (!completions.empty() || has_passed(deadline_ns)) return {};
    io_uring_cqe* found = nullptr;
    int status = 0;
    if (deadline_ns == 0) {
      status = ::io_uring_wait_cqe(&ring_, &found);
    } else {
      const int64_t left_ns = std::max<int64_t>(deadline_ns - monotonic_ns(), 0);
      __kernel_timespec left{.tv_sec = left_ns / 1'000'000'000, .tv_nsec = left_ns % 1'000'000'000};
      status = ::io_uring_wait_cqe_timeout(&ring_, &found, &left);
    }
    if (status < 0 && status != -EINTR && status != -ETIME && status != -EAGAIN)
      return fail("wait for", "io_uring", -status);
  }
}

}  // namespace

Result<std::unique_ptr<SocketIo>> make_uring_io(std::span<const int> sockets, std::span<std::byte> memory,
                                                bool zero_copy) {
  auto io = std::make_unique<UringIo>(zero_copy);
  GODWIT_TRY(io->init(sockets, memory));
  return io;
}

Result<void> probe_io_uring() {
  io_uring ring{};
  const int status = ::io_uring_queue_init(kEntries, &ring, 0);
  if (status < 0) return setup_failure("set up", -status);
  const bool has_deadlines = (ring.features & IORING_FEAT_EXT_ARG) != 0;
  ::io_uring_queue_exit(&ring);
  if (!has_deadlines) return setup_failure("wait with a deadline in", ENOSYS);
  return {};
}

}  // namespace godwit::transport
