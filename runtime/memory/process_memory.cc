#include "runtime/memory/process_memory.h"

#include <fcntl.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <memory>

#include "runtime/memory/page_batch.h"

namespace godwit::runtime {
namespace {

constexpr size_t kVectorMax = 256;  // of iovecs in one call; the kernel's limit is IOV_MAX, 1024
constexpr size_t kZeroBytes = size_t{256} << 10;

const std::byte* zeroes() {
  static const auto block = std::make_unique<std::array<std::byte, kZeroBytes>>();
  return block->data();
}

// Walks through a list of ranges by byte counts.
class RangeWalk {
 public:
  explicit RangeWalk(std::span<const Range> ranges) : ranges_(ranges) {}
  [[nodiscard]] bool done() const { return index_ == ranges_.size(); }
  [[nodiscard]] Range current() const { return {ranges_[index_].start + offset_, ranges_[index_].end}; }
  // The next pieces as iovecs, of `bytes_max` in all.
  size_t vector(std::span<iovec> pieces, size_t bytes_max, size_t& bytes) const {
    size_t count = 0;
    uint64_t offset = offset_;
    bytes = 0;
    for (size_t i = index_; i < ranges_.size() && count < pieces.size() && bytes < bytes_max; ++i) {
      const size_t length = std::min<size_t>(ranges_[i].size() - offset, bytes_max - bytes);
      // An address of another process. NOLINTNEXTLINE(performance-no-int-to-ptr)
      pieces[count++] = {reinterpret_cast<void*>(ranges_[i].start + offset), length};
      bytes += length;
      offset = 0;
    }
    return count;
  }
  void advance(size_t bytes) {
    while (bytes != 0) {
      const size_t step = std::min<size_t>(bytes, ranges_[index_].size() - offset_);
      offset_ += step;
      bytes -= step;
      if (offset_ == ranges_[index_].size()) {
        ++index_;
        offset_ = 0;
      }
    }
  }

 private:
  std::span<const Range> ranges_;
  size_t index_ = 0;
  uint64_t offset_ = 0;
};

}  // namespace

std::string describe(pid_t pid, Range range) {
  std::array<char, 96> text;
  std::snprintf(text.data(), text.size(), "pid %d %lx-%lx", pid, range.start, range.end);
  return text.data();
}

Result<void> ProcessMemory::prepare() {
  if (mem_.valid()) return {};
  GODWIT_ASSIGN(mem_, open_file("/proc/" + std::to_string(pid_) + "/mem", O_RDWR));
  return {};
}

Result<size_t> ProcessMemory::read(std::span<const Range> ranges, std::byte* to) const {
  RangeWalk walk(ranges);
  std::array<iovec, kVectorMax> remote;
  size_t done = 0;
  while (!walk.done()) {
    iovec local{.iov_base = to + done, .iov_len = 0};
    const size_t count = walk.vector(remote, size_t{1} << 30, local.iov_len);
    const ssize_t got = ::process_vm_readv(pid_, &local, 1, remote.data(), count, 0);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0 && errno != EFAULT) return fail("read the memory of", describe(pid_, walk.current()));
    const size_t pages = got < 0 ? 0 : static_cast<size_t>(got) / kPageSize * kPageSize;
    done += pages;
    if (pages < local.iov_len) break;
    walk.advance(pages);
  }
  return done;
}

Result<size_t> ProcessMemory::read_forced(Range range, std::byte* to) {
  auto prepared = prepare();
  if (!prepared && prepared.error().code == ENOENT) prepared.error().code = ESRCH;
  GODWIT_TRY(std::move(prepared));
  size_t done = 0;
  while (done < range.size()) {
    const ssize_t got =
        ::pread(mem_.get(), to + done, range.size() - done, static_cast<off_t>(range.start + done));
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) break;  // EIO: not mapped. 0: no address space any more.
    done += static_cast<size_t>(got);
  }
  return done / kPageSize * kPageSize;
}

Result<void> ProcessMemory::write_forced(Range range, const std::byte* from) const {
  size_t done = 0;
  while (done < range.size()) {
    const ssize_t put =
        ::pwrite(mem_.get(), from + done, range.size() - done, static_cast<off_t>(range.start + done));
    if (put < 0 && errno == EINTR) continue;
    if (put <= 0)
      return fail("write the memory of", describe(pid_, {range.start + done, range.end}),
                  put < 0 ? errno : ESRCH, put < 0 ? "no mapping there takes pages" : "the process is gone");
    done += static_cast<size_t>(put);
  }
  return {};
}

Result<void> ProcessMemory::write(std::span<const Range> ranges, const std::byte* from) const {
  RangeWalk walk(ranges);
  std::array<iovec, kVectorMax> remote;
  while (!walk.done()) {
    iovec local{.iov_base = const_cast<std::byte*>(from), .iov_len = 0};  // NOLINT: it is only read
    const size_t count = walk.vector(remote, size_t{1} << 30, local.iov_len);
    ssize_t put = ::process_vm_writev(pid_, &local, 1, remote.data(), count, 0);
    if (put < 0 && errno == EINTR) continue;
    if (put < 0 && errno != EFAULT) return fail("write the memory of", describe(pid_, walk.current()));
    put = std::max<ssize_t>(put, 0);
    walk.advance(static_cast<size_t>(put));
    from += put;
    if (static_cast<size_t>(put) == local.iov_len) continue;
    // The mapping here is not writable: the rest of this range goes the other way.
    const Range rest = walk.current();
    GODWIT_TRY(write_forced(rest, from));
    walk.advance(rest.size());
    from += rest.size();
  }
  return {};
}

Result<void> ProcessMemory::write_zeroes(std::span<const Range> ranges) const {
  for (const Range& range : ranges)
    for (uint64_t at = range.start; at < range.end;) {
      const Range piece{at, std::min<uint64_t>(range.end, at + kZeroBytes)};
      GODWIT_TRY(write({&piece, 1}, zeroes()));
      at = piece.end;
    }
  return {};
}

}  // namespace godwit::runtime
