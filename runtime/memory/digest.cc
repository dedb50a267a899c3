// Digests of memory, to compare both ends of a migration.
//
// Every page that counts is hashed with its address, and the hashes are added up: the order does not matter,
// so threads share the work. What counts: pages of anonymous and shared memory that are not zero (a zero page
// and no page are the same to the program), and all populated private pages of file mappings (there no page
// means the file's content, which is not zero).
#include <unistd.h>
#include <xxhash.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstring>
#include <mutex>
#include <thread>

#include "runtime/memory/content_table.h"
#include "runtime/memory/memory_spaces.h"
#include "runtime/memory/page_source.h"
#include "runtime/memory/pagemap.h"
#include "runtime/memory/process_memory.h"

namespace godwit::runtime {
namespace {

using SpaceDigest = PageSource::SpaceDigest;

constexpr size_t kChunkBytes = size_t{512} << 10;
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

void add_page(SpaceDigest& digest, uint64_t address, const std::byte* page) {
  const PageHash hash = hash_page(page);
  const std::array<uint64_t, 3> words{address, hash.low, hash.high};
  const XXH128_hash_t placed = XXH3_128bits(words.data(), sizeof words);
  ++digest.pages;
  digest.digest_low += placed.low64;
  digest.digest_high += placed.high64;
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

Result<void> digest_job(const Job& job, std::byte* buffer, SpaceDigest& digest) {
  GODWIT_TRY(job.kind == PageClass::kShared ? read_shared(job, buffer) : read_process(job, buffer));
  if (job.kernel_bytes != nullptr)
    for (const Range& bytes : *job.kernel_bytes) {
      const uint64_t start = std::max(bytes.start, job.range.start);
      const uint64_t end = std::min(bytes.end, job.range.end);
      if (start < end) std::memset(buffer + (start - job.range.start), 0, end - start);
    }
  for (uint64_t at = 0; at < job.range.size(); at += kPageSize)
    if (job.kind == PageClass::kPrivateFile || !is_zero_page(buffer + at))
      add_page(digest, job.range.start + at, buffer + at);
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
  std::vector<SpaceDigest> own(shared.digests.size(), SpaceDigest{});
  Result<void> outcome;
  for (size_t i = shared.next++; outcome && i < shared.jobs.size(); i = shared.next++)
    outcome = digest_job(shared.jobs[i], buffer.get(), own[shared.jobs[i].space]);
  const std::lock_guard lock(shared.mutex);
  if (!outcome) shared.outcome = std::move(outcome);
  for (size_t i = 0; i < own.size(); ++i) {
    shared.digests[i].pages += own[i].pages;
    shared.digests[i].digest_low += own[i].digest_low;
    shared.digests[i].digest_high += own[i].digest_high;
  }
}

}  // namespace

Result<std::vector<SpaceDigest>> digest_memory(const MemoryView& view) {
  std::vector<SpaceDigest> digests;
  std::vector<Job> jobs;
  for (const ProcessView& process : view.processes) {
    GODWIT_TRY(plan_process(process, digests.size(), jobs));
    digests.push_back({SpaceKind::kProcess, process.space_id, 0, 0, 0});
  }
  for (const SharedMemoryView& object : view.shared_memory) {
    GODWIT_TRY(plan_shared(object, digests.size(), jobs));
    digests.push_back({SpaceKind::kSharedMemory, object.space_id, 0, 0, 0});
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

}  // namespace godwit::runtime
