#include "runtime/memory/page_reader.h"

#include <unistd.h>

#include <algorithm>
#include <ranges>

namespace godwit::runtime {
namespace {

// 256 KiB: fits into a core's cache, and is large enough for the copy to run at full speed.
constexpr size_t kPiecePages = 64;

bool same_source(const PageReader::Run& one, const PageReader::Run& other) {
  return one.kind == other.kind && one.space_id == other.space_id && one.page_class == other.page_class &&
         one.readable && other.readable;
}

Result<size_t> read_shared(int fd, uint64_t space_id, std::span<const Range> ranges, std::byte* to) {
  size_t done = 0;
  for (const Range& range : ranges) {
    uint64_t at = range.start;
    while (at < range.end) {
      const ssize_t got = ::pread(fd, to + done + (at - range.start), range.end - at, static_cast<off_t>(at));
      if (got < 0 && errno == EINTR) continue;
      if (got < 0) return fail("read shared memory", std::to_string(space_id));
      if (got == 0) break;
      at += static_cast<uint64_t>(got);
    }
    // Behind the end of the object: the rest of its last page reads as zeroes, more does not exist.
    const uint64_t end = (at + kPageSize - 1) / kPageSize * kPageSize;
    std::fill(to + done + (at - range.start), to + done + (end - range.start), std::byte{0});
    done += end - range.start;
    if (end < range.end) break;
  }
  return done;
}

}  // namespace

void PageReader::clear(bool frozen) {
  frozen_ = frozen;
  runs_.clear();
  pages_left_ = 0;
}

void PageReader::add(const Run& run) {
  runs_.push_back(run);
  pages_left_ += run.range.size() / kPageSize;
}

Result<size_t> PageReader::fill(std::span<std::byte> buffer, PageCounters& counters) {
  if (buffer.size() < kBatchBytesMin) return refuse("fill a batch", "", "the buffer is too small");
  BatchBuilder batch(buffer);
  while (!runs_.empty() && batch.room() > 0) GODWIT_TRY(read_piece(batch, counters));
  return batch.finish();
}

void PageReader::gather(size_t pages_max) {
  piece_.clear();
  uint64_t left = std::min(pages_max, kPiecePages) * kPageSize;
  for (const Run& run : runs_) {
    if (left == 0 || (!piece_.empty() && !same_source(runs_.front(), run))) break;
    piece_.push_back({run.range.start, run.range.start + std::min(left, run.range.size())});
    left -= piece_.back().size();
  }
}

Result<size_t> PageReader::read(std::byte* to) {
  const Run& run = runs_.front();
  if (run.kind == SpaceKind::kSharedMemory) return read_shared(run.fd, run.space_id, piece_, to);
  if (!run.readable) return run.memory->read_forced(piece_.front(), to);
  return run.memory->read(piece_, to);
}

Result<void> PageReader::read_piece(BatchBuilder& batch, PageCounters& counters) {
  gather(batch.room());
  const std::byte* page = batch.free_pages();
  auto got = read(batch.free_pages());
  if (!got && got.error().code == ESRCH && !frozen_) {
    drop_space();
    return {};
  }
  GODWIT_TRY(got);
  counters.bytes_read += *got;
  size_t left = *got;
  const Run& run = runs_.front();
  for (const Range& range : piece_)
    for (uint64_t at = range.start; at < range.end && left != 0; at += kPageSize, left -= kPageSize) {
      judge(run, at, page, batch, counters);
      page += kPageSize;
    }
  uint64_t wanted = 0;
  for (const Range& range : piece_) wanted += range.size();
  consume(*got);
  return *got < wanted ? step_over_page(batch, counters) : Result<void>();
}

void PageReader::judge(const Run& run, uint64_t address, const std::byte* page, BatchBuilder& batch,
                       PageCounters& counters) {
  const PageHash* known = run.table->find(address);
  const bool zero = is_zero_page(page);
  // A page the target never had reads as zeroes there, unless it is a file's.
  if (zero && known == nullptr && run.page_class != PageClass::kPrivateFile) {
    ++counters.pages_zero;
    return;
  }
  const PageHash hash = zero ? hash_of_zero_page() : hash_page(page);
  if (known != nullptr && *known == hash) {
    ++counters.pages_unchanged;
    return;
  }
  if (!zero) {
    batch.add_page(run.kind, run.space_id, address, page);
    run.table->put(address, hash);
    ++counters.pages_sent;
    return;
  }
  batch.add_zero_page(run.kind, run.space_id, address);
  ++counters.pages_zero;
  // What reads as zeroes without a page needs no entry; a private page of a file does not.
  if (run.page_class == PageClass::kPrivateFile)
    run.table->put(address, hash);
  else
    (void)run.table->take({{address, address + kPageSize}});
}

void PageReader::consume(uint64_t bytes) {
  pages_left_ -= bytes / kPageSize;
  while (bytes != 0) {
    Run& run = runs_.front();
    const uint64_t step = std::min(bytes, run.range.size());
    run.range.start += step;
    bytes -= step;
    if (run.range.size() == 0) runs_.pop_front();
  }
}

Result<void> PageReader::step_over_page(BatchBuilder& batch, PageCounters& counters) {
  Run& run = runs_.front();
  if (run.kind == SpaceKind::kSharedMemory) {  // the object became shorter
    consume(run.range.size());
    return {};
  }
  if (run.readable && batch.room() > 0) {
    const Range page{run.range.start, run.range.start + kPageSize};
    auto got = run.memory->read_forced(page, batch.free_pages());
    if (!got && got.error().code == ESRCH && !frozen_) {
      drop_space();
      return {};
    }
    GODWIT_TRY(got);
    if (*got == kPageSize) judge(run, page.start, batch.free_pages(), batch, counters);
  }
  consume(kPageSize);
  return drop_vanished();
}

// Where one page is gone, many may be: asks the page tables once, rather than the kernel for every page.
Result<void> PageReader::drop_vanished() {
  if (runs_.empty() || runs_.front().kind != SpaceKind::kProcess) return {};
  const Run run = runs_.front();
  Ranges rest;
  auto pagemap = Pagemap::open(run.memory->pid());
  auto asked = pagemap ? pagemap->populated(run.range, run.page_class, rest)
                       : Result<void>(std::unexpected(pagemap.error()));
  if (!asked) {
    if (frozen_) return asked;
    drop_space();
    return {};
  }
  consume(run.range.size());
  for (const Range& range : rest | std::views::reverse) {
    runs_.push_front(run);
    runs_.front().range = range;
    pages_left_ += range.size() / kPageSize;
  }
  return {};
}

void PageReader::drop_space() {
  const Run first = runs_.front();
  while (!runs_.empty() && runs_.front().kind == first.kind && runs_.front().space_id == first.space_id)
    consume(runs_.front().range.size());
}

}  // namespace godwit::runtime
