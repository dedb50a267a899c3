#include "runtime/memory/digest.h"

#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <mutex>
#include <thread>

#include "runtime/memory/memory_spaces.h"
#include "runtime/memory/pagemap.h"
#include "runtime/memory/process_memory.h"

namespace godwit::runtime {
namespace {

constexpr size_t kChunkBytes = size_t{128} << 10;
constexpr unsigned kThreads = 2;

struct Job {
  size_t space = 0;  // index of the digest
  PageClass kind = PageClass::kAnonymous;
  pid_t host_pid = 0;
  int fd = -1;
  bool readable = true;
  Range range;
  const std::vector<Range>* kernel_bytes = nullptr;
};

void add_jobs(std::vector<Job>& jobs, Job job, const Ranges& ranges) {
  for (const Range& range : ranges)
    for (uint64_t at = range.start; at < range.end; at = job.range.end) {
      job.range = {at, std::min<uint64_t>(range.end, at + kChunkBytes)};
      jobs.push_back(job);
    }
}

Result<void> read_process(const Job& job, std::byte* buffer) {
  ProcessMemory memory(job.host_pid);
  size_t done = 0;
  if (job.readable) {
    GODWIT_ASSIGN(done, memory.read({&job.range, 1}, buffer));
  }
  const Range rest{job.range.start + done, job.range.end};
  if (rest.size() != 0) {
    GODWIT_ASSIGN(const size_t more, memory.read_forced(rest, buffer + done));
    done += more;
  }
  if (done != job.range.size())
    return fail("read for a digest", "pid " + std::to_string(job.host_pid), EFAULT, "its memory changes");
  return {};
}

Result<void> read_shared(const Job& job, std::byte* buffer) {
  size_t done = 0;
  while (done < job.range.size()) {
    const ssize_t got =
        ::pread(job.fd, buffer + done, job.range.size() - done, static_cast<off_t>(job.range.start + done));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return fail("read shared memory for a digest", "fd " + std::to_string(job.fd));
    if (got == 0) break;
    done += static_cast<size_t>(got);
  }
  std::memset(buffer + done, 0, job.range.size() - done);
  return {};
}

Result<void> digest_job(const Job& job, std::byte* buffer, PageSum& sum) {
  GODWIT_TRY(job.kind == PageClass::kShared ? read_shared(job, buffer) : read_process(job, buffer));
  if (job.kernel_bytes != nullptr)
    for (const Range& bytes : *job.kernel_bytes) {
      const uint64_t start = std::max(bytes.start, job.range.start);
      const uint64_t end = std::min(bytes.end, job.range.end);
      if (start < end) std::memset(buffer + (start - job.range.start), 0, end - start);
    }
  for (uint64_t at = 0; at < job.range.size(); at += kPageSize)
    if (job.kind == PageClass::kPrivateFile || !is_zero_page(buffer + at))
      sum.add(job.range.start + at, hash_page(buffer + at));
  return {};
}

Result<void> plan_process(const ProcessView& process, size_t space, std::vector<Job>& jobs) {
  GODWIT_ASSIGN(Pagemap pagemap, Pagemap::open(process.host_pid));
  for (const Vma& vma : process.vmas) {
    if (vma.shared || vma.name == "[vdso]" || vma.name == "[vsyscall]" || vma.name.starts_with("[vvar"))
      continue;
    Ranges pages;
    GODWIT_TRY(pagemap.populated({vma.start, vma.end}, page_class(vma), pages));
    add_jobs(jobs,
             {.space = space,
              .kind = page_class(vma),
              .host_pid = process.host_pid,
              .readable = vma.readable,
              .range = {},
              .kernel_bytes = &process.kernel_bytes},
             pages);
  }
  return {};
}

Result<void> plan_shared(const SharedMemoryView& object, size_t space, std::vector<Job>& jobs) {
  const uint64_t size = (object.size + kPageSize - 1) / kPageSize * kPageSize;
  GODWIT_ASSIGN(Ranges pages, allocated_pages(object));
  pages = intersect(pages, {{0, size}});
  add_jobs(jobs, {.space = space, .kind = PageClass::kShared, .fd = object.fd, .range = {}}, pages);
  return {};
}

// What the threads share.
struct Work {
  const std::vector<Job>& jobs;
  std::atomic<size_t> next{0};
  std::mutex mutex;  // of what follows
  std::vector<SpaceDigest>& digests;
  Result<void> outcome;
};

void work(Work& shared) {
  const auto buffer = std::make_unique_for_overwrite<std::byte[]>(kChunkBytes);
  std::vector<PageSum> own(shared.digests.size());
  Result<void> outcome;
  for (size_t i = shared.next++; outcome && i < shared.jobs.size(); i = shared.next++)
    outcome = digest_job(shared.jobs[i], buffer.get(), own[shared.jobs[i].space]);
  const std::lock_guard lock(shared.mutex);
  if (!outcome) shared.outcome = std::move(outcome);
  for (size_t i = 0; i < own.size(); ++i) shared.digests[i].sum.add(own[i]);
}

}  // namespace

Result<std::vector<SpaceDigest>> digest_memory(const MemoryView& view) {
  std::vector<SpaceDigest> digests;
  std::vector<Job> jobs;
  for (const ProcessView& process : view.processes) {
    GODWIT_TRY(plan_process(process, digests.size(), jobs));
    digests.push_back({SpaceKind::kProcess, process.space_id, {}});
  }
  for (const SharedMemoryView& object : view.shared_memory) {
    GODWIT_TRY(plan_shared(object, digests.size(), jobs));
    digests.push_back({SpaceKind::kSharedMemory, object.space_id, {}});
  }
  Work shared{.jobs = jobs, .mutex = {}, .digests = digests, .outcome = {}};
  {
    std::vector<std::jthread> helpers;
    for (unsigned i = 1; i < kThreads && jobs.size() > i; ++i) helpers.emplace_back([&] { work(shared); });
    work(shared);
  }
  GODWIT_TRY(shared.outcome);
  return digests;
}

namespace {

// What a page of the table is read as, with the kernel's own bytes left out.
Result<void> add_masked(const ProcessView& process, uint64_t page, std::byte* buffer, PageSum& sum) {
  const auto vma = std::ranges::find_if(
      process.vmas, [page](const Vma& one) { return one.start <= page && page < one.end; });
  if (vma == process.vmas.end()) return {};
  return digest_job({.kind = page_class(*vma),
                     .host_pid = process.host_pid,
                     .readable = vma->readable,
                     .range = {page, page + kPageSize},
                     .kernel_bytes = &process.kernel_bytes},
                    buffer, sum);
}

}  // namespace

MemoryDigest::MemoryDigest() : buffer_(std::make_unique_for_overwrite<std::byte[]>(kChunkBytes)) {}

void MemoryDigest::add_process(uint64_t space_id, pid_t host_pid, std::unique_ptr<DirtyTracker> tracker) {
  pages_.add_process(space_id, host_pid, std::move(tracker));
}

Result<void> MemoryDigest::update(MemoryView view) {
  for (SharedMemoryView& object : view.shared_memory) object.always_compared = true;
  GODWIT_TRY(pages_.begin_round(view));
  // The packed pages are not wanted, but the sums of what was read.
  for (size_t used = 1; used != 0;) {
    GODWIT_ASSIGN(used, pages_.fill({buffer_.get(), kChunkBytes}));
  }
  return {};
}

Result<std::vector<SpaceDigest>> MemoryDigest::digests(const MemoryView& view) {
  std::vector<SpaceDigest> digests;
  for (const ProcessView& process : view.processes) {
    std::vector<uint64_t> left_out;
    PageSum sum = pages_.sum(process, left_out);
    for (const uint64_t page : left_out) GODWIT_TRY(add_masked(process, page, buffer_.get(), sum));
    digests.push_back({SpaceKind::kProcess, process.space_id, sum});
  }
  for (const SharedMemoryView& object : view.shared_memory)
    digests.push_back({SpaceKind::kSharedMemory, object.space_id, pages_.sum(object)});
  return digests;
}

}  // namespace godwit::runtime
