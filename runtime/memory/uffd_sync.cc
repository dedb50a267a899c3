// Dirty tracking by userfaultfd(2) with synchronous write-protection: whoever writes a protected page waits
// until a thread of ours has unprotected it. For kernels without WP_ASYNC.
//
// The page tables say what was written: every populated page that is not protected (bit 57 of pagemap, Linux
// 5.13). So first touches of empty entries, of which old kernels tell nobody (WP_UNPOPULATED is 6.4), are
// seen like all others, and nothing has to be remembered here. What was found unprotected is protected again,
// exactly that: a page that is written in between was protected before, and stays unprotected for the next
// round, or is among those that are read after this.
//
// Faults of the kernel (read(2) into a protected buffer) must be served, too: the userfaultfd has to be one
// without UFFD_USER_MODE_ONLY.
//
// Faults of a thread that exits are served by nobody: the kernel gives up on them (handle_userfault() and
// PF_EXITING), and what a thread writes last, the zero at its clear_child_tid address (set_tid_address(2)),
// for which pthread_join(3) waits, would be lost. C libraries keep that word in the thread's control block,
// at whose start the ABI wants a pointer to itself. So pages with such a block are never protected, and count
// as written in every round. Two things remain: a thread that begins and ends while the very page is looked
// at and protected, some 50 us, and robust mutexes held by a thread that ends, which nobody inherits if they
// are protected just then. This is why no other tracker is worse than this one.
//
// If this process dies, its descriptor goes, and with it the protection; who waited goes on. If it is
// stopped, the container waits with it.
#include <linux/userfaultfd.h>
#include <poll.h>
#include <sched.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <csignal>
#include <cstring>
#include <span>
#include <thread>
#include <utility>

#include "runtime/kernel/features.h"
#include "runtime/kernel/uapi.h"
#include "runtime/memory/page_batch.h"
#include "runtime/memory/process_memory.h"
#include "runtime/memory/uffd_tracker.h"

namespace godwit::runtime {
namespace {

int write_protect(int fd, Range range, bool protect) {
  uffdio_writeprotect request{};
  request.range = {.start = range.start, .len = range.size()};
  request.mode = protect ? UFFDIO_WRITEPROTECT_MODE_WP : 0;
  return ::ioctl(fd, UFFDIO_WRITEPROTECT, &request) == 0 ? 0 : errno;
}

// Pages are looked at and protected by the piece, shortly after each other.
constexpr uint64_t kPieceBytes = 64 * kPageSize;
// How far behind the start of its control block the word of a thread can lie that the kernel writes: 0x2d0 in
// glibc 2.36, less in musl.
constexpr uint64_t kControlBlockBytes = 1024;

// Appends the pages of [start, start + bytes.size()) that hold control blocks of threads, and perhaps the
// page behind them.
void find_thread_blocks(uint64_t start, std::span<const std::byte> bytes, Ranges& pages) {
  for (size_t at = 0; at + sizeof(uint64_t) <= bytes.size(); at += sizeof(uint64_t)) {
    uint64_t word = 0;
    std::memcpy(&word, bytes.data() + at, sizeof word);
    if (word != start + at) continue;
    append_range(pages, {word / kPageSize * kPageSize,
                         (word + kControlBlockBytes + kPageSize - 1) / kPageSize * kPageSize});
  }
}

// The thread that lets writers go on. It must wait for nothing that a writer may hold.
class FaultServer {
 public:
  FaultServer(int fd, Fd stop) : fd_(fd), stop_(std::move(stop)) {
    // Signals are for the threads that expect them.
    sigset_t all;
    sigset_t before;
    ::sigfillset(&all);
    ::pthread_sigmask(SIG_SETMASK, &all, &before);
    thread_ = std::thread([this] { run(); });
    ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
  }
  FaultServer(const FaultServer&) = delete;
  FaultServer& operator=(const FaultServer&) = delete;
  ~FaultServer() {
    const uint64_t one = 1;
    (void)!::write(stop_.get(), &one, sizeof one);
    thread_.join();
  }
  // errno of what kept a writer waiting; 0.
  [[nodiscard]] int broken() const { return broken_; }

 private:
  void run();
  void serve(const uffd_msg& message);

  int fd_;
  Fd stop_;
  std::atomic<int> broken_{0};
  std::thread thread_;
};

void FaultServer::serve(const uffd_msg& message) {
  if (message.event != UFFD_EVENT_PAGEFAULT) return;
  const uint64_t page = message.arg.pagefault.address / kPageSize * kPageSize;
  int code = write_protect(fd_, {page, page + kPageSize}, false);
  while (code == EAGAIN) code = write_protect(fd_, {page, page + kPageSize}, false);
  if (code == 0 || code == ESRCH) return;
  // ENOENT: the mapping is gone or another one, to which the writer shall turn.
  if (code != ENOENT) broken_ = code;
  uffdio_range range{.start = page, .len = kPageSize};
  (void)::ioctl(fd_, UFFDIO_WAKE, &range);
}

void FaultServer::run() {
  // A writer waits for every answer: the shortest delay there is, where it is allowed. Never the leisure of
  // the thread that started this one (SCHED_IDLE).
  sched_param parameter{.sched_priority = 1};
  if (::sched_setscheduler(0, SCHED_FIFO, &parameter) != 0) {
    parameter.sched_priority = 0;
    (void)::sched_setscheduler(0, SCHED_OTHER, &parameter);
  }
  std::array<uffd_msg, 64> messages;
  std::array<pollfd, 2> waiting{pollfd{fd_, POLLIN, 0}, pollfd{stop_.get(), POLLIN, 0}};
  for (;;) {
    if (::poll(waiting.data(), waiting.size(), -1) < 0 && errno != EINTR) broken_ = errno;
    if (waiting[1].revents != 0) return;
    const ssize_t got = ::read(fd_, messages.data(), sizeof messages);
    for (size_t i = 0; got > 0 && i < static_cast<size_t>(got) / sizeof(uffd_msg); ++i) serve(messages[i]);
  }
}

class UffdSyncTracker final : public UffdTracker {
 public:
  UffdSyncTracker(pid_t pid, Fd fd, Fd stop, Pagemap pagemap, bool shared)
      : UffdTracker(pid, std::move(fd), std::move(pagemap)),
        shared_(shared),
        server_(std::make_unique<FaultServer>(fd_.get(), std::move(stop))) {}
  [[nodiscard]] const char* name() const override { return "uffd-sync"; }
  Result<void> stop() override {
    server_.reset();
    return UffdTracker::stop();
  }

 private:
  // Anonymous memory, and shared memory that is nobody's file on a disk. Private mappings of files cannot be
  // registered: all of them are compared.
  [[nodiscard]] bool can_register(const Vma& vma) const override {
    if (!vma.shared) return vma.inode == 0;
    return shared_ && vma.device_major == 0 && vma.device_minor == 1;
  }
  Result<bool> arm(Range range, PageClass kind, Ranges& populated) override;
  Result<void> take(Range range, PageClass kind, Ranges& written, Ranges& replaced) override;
  Result<bool> take_part(Range range, PageClass kind, Ranges& written);
  Result<void> prepare_to_look() override;
  Result<bool> look(Pagemap& pagemap, Range range, PageClass kind, Ranges& written,
                    Ranges& absent) const override;
  Result<bool> protect(Range range) const;
  Result<bool> protect_private(const Ranges& pages);
  Result<bool> is_registered(Range range) const;

  bool shared_;  // the kernel protects shared memory (5.19)
  std::unique_ptr<FaultServer> server_;
  std::vector<Vma> maps_;  // of the last round
  ProcessMemory memory_{pid_};
  std::vector<std::byte> piece_ = std::vector<std::byte>(kPieceBytes);
};

// False: the range is not registered, or not in one mapping (any more).
Result<bool> UffdSyncTracker::protect(Range range) const {
  int code = write_protect(fd_.get(), range, true);
  while (code == EAGAIN) code = write_protect(fd_.get(), range, true);
  if (code == 0) return true;
  if (code == ENOENT || code == EINVAL) return false;
  return fail("write-protect the memory of", describe(), code);
}

// Asks by unprotecting the first page: at worst it is read once more.
Result<bool> UffdSyncTracker::is_registered(Range range) const {
  int code = write_protect(fd_.get(), {range.start, range.start + kPageSize}, false);
  while (code == EAGAIN) code = write_protect(fd_.get(), {range.start, range.start + kPageSize}, false);
  if (code == 0) return true;
  if (code == ENOENT || code == EINVAL) return false;
  return fail("ask about the memory of", describe(), code);
}

// Protects private pages, but for those of thread control blocks. False: not registered.
Result<bool> UffdSyncTracker::protect_private(const Ranges& pages) {
  Ranges blocks;
  for (const Range& range : pages)
    for (uint64_t at = range.start; at < range.end; at += kPieceBytes) {
      const Range piece{at, std::min(range.end, at + kPieceBytes)};
      GODWIT_ASSIGN(const size_t got, memory_.read({&piece, 1}, piece_.data()));
      find_thread_blocks(at, std::span(piece_).first(got), blocks);
      for (const Range& part : subtract({piece}, blocks)) {
        GODWIT_ASSIGN(const bool armed, protect(part));
        if (!armed) return false;
      }
      // A mapping that was moved here may still have the protection that it had elsewhere.
      for (const Range& part : intersect({piece}, blocks)) {
        const int code = write_protect(fd_.get(), part, false);
        if (code == ENOENT || code == EINVAL) return false;
      }
    }
  return true;
}

Result<bool> UffdSyncTracker::arm(Range range, PageClass kind, Ranges& populated) {
  if (kind == PageClass::kShared) return protect(range);
  Ranges found;
  GODWIT_TRY(pagemap_.populated(range, kind, found));
  GODWIT_ASSIGN(const bool armed, found.empty() ? is_registered(range) : protect_private(found));
  if (armed)
    for (const Range& pages : found) append_range(populated, pages);
  return armed;
}

// Appends to `written` (in no order) what was found unprotected, whatever comes of it: a part of it may be
// protected by now. False: not registered, at least not all of it.
Result<bool> UffdSyncTracker::take_part(Range range, PageClass kind, Ranges& written) {
  Ranges found;
  GODWIT_TRY(pagemap_.unprotected(range, kind, found));
  written.insert(written.end(), found.begin(), found.end());
  if (found.empty()) return is_registered(range);
  if (kind != PageClass::kShared) return protect_private(found);
  for (const Range& pages : found) {
    GODWIT_ASSIGN(const bool armed, protect(pages));
    if (!armed) return false;
  }
  return true;
}

// The mapping may have been split since its borders were read: then once more with the new ones.
Result<void> UffdSyncTracker::take(Range range, PageClass kind, Ranges& written, Ranges& replaced) {
  if (server_->broken() != 0) return fail("serve the page faults of", describe(), server_->broken());
  Ranges found;
  GODWIT_ASSIGN(const bool whole, take_part(range, kind, found));
  if (!whole) {
    GODWIT_ASSIGN(const std::vector<Vma> vmas, read_maps(pid_));
    std::vector<Range> parts;
    for_each_part(range, vmas, [&](Range part) { parts.push_back(part); });
    for (const Range& part : parts) {
      GODWIT_ASSIGN(const bool taken, take_part(part, kind, found));
      if (!taken) append_range(replaced, part);
    }
    normalize(found);
  }
  for (const Range& pages : found) append_range(written, pages);
  return {};
}

Result<void> UffdSyncTracker::prepare_to_look() {
  GODWIT_ASSIGN(maps_, read_maps(pid_));
  return {};
}

Result<bool> UffdSyncTracker::look(Pagemap& pagemap, Range range, PageClass kind, Ranges& written,
                                   Ranges& absent) const {
  Ranges found;
  Ranges missing;
  GODWIT_TRY(pagemap.unprotected_and_absent(range, kind, found, missing));
  Ranges parts;
  for_each_part(range, maps_, [&](Range part) { parts.push_back(part); });
  for (const Range& part : parts) {
    GODWIT_ASSIGN(const bool registered, is_registered(part));
    if (!registered) return false;
  }
  for (const Range& pages : found) append_range(written, pages);
  for (const Range& pages : missing) append_range(absent, pages);
  return true;
}

// Returns the features that were taken. A failed attempt leaves the descriptor as it was.
Result<uint64_t> set_up(int fd, pid_t pid) {
  constexpr uint64_t kBasic = UFFD_FEATURE_PAGEFAULT_FLAG_WP;
  for (const uint64_t wanted : {kBasic | UFFD_FEATURE_WP_HUGETLBFS_SHMEM, kBasic}) {
    uffdio_api api{};
    api.api = UFFD_API;
    api.features = wanted;
    if (::ioctl(fd, UFFDIO_API, &api) == 0) return wanted;
  }
  return fail("set up userfaultfd for", "pid " + std::to_string(pid), errno,
              "write-protection needs Linux 5.7 or newer");
}

}  // namespace

Result<std::unique_ptr<DirtyTracker>> make_uffd_sync_tracker(pid_t pid, Fd userfaultfd) {
  if (!tracking_abilities().uffd_sync)
    return refuse("track by userfaultfd write-protection", "pid " + std::to_string(pid),
                  "it needs Linux 5.13 or newer with CONFIG_USERFAULTFD");
  GODWIT_ASSIGN(const uint64_t features, set_up(userfaultfd.get(), pid));
  GODWIT_ASSIGN(Pagemap pagemap, Pagemap::open(pid));
  Fd stop(::eventfd(0, EFD_CLOEXEC));
  if (!stop.valid()) return fail("eventfd", "pid " + std::to_string(pid));
  return std::make_unique<UffdSyncTracker>(pid, std::move(userfaultfd), std::move(stop), std::move(pagemap),
                                           (features & UFFD_FEATURE_WP_HUGETLBFS_SHMEM) != 0);
}

}  // namespace godwit::runtime
