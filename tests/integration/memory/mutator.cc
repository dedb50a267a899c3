// The source: a process that maps, unmaps, moves, protects, drops and writes memory at random.
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <random>
#include <thread>

#include "tests/integration/memory/arena.h"

namespace godwit::runtime::arena {
namespace {

enum Kind : uint8_t { kNone, kAnonymous, kFile, kObject };

struct Page {
  Kind kind = kNone;
  int protection = 0;
};

// Lives in the child. Knows what is mapped where, so that it never touches what it may not.
class Mutator {
 public:
  Mutator(const Objects& objects, uint64_t seed, uint64_t heap_start, uint64_t* operations)
      : objects_(objects), random_(seed), heap_start_(heap_start), operations_(operations) {}
  [[noreturn]] void run();

 private:
  uint64_t below(uint64_t limit) { return random_() % limit; }
  static char* address(uint64_t page) { return reinterpret_cast<char*>(kStart + page * 4096); }
  void fill(char* page);
  void write_some();
  void write_run();
  void map_anonymous(bool huge);
  void map_file();
  void map_object();
  void unmap();
  void drop();
  void protect();
  void move();
  void resize_in_place();
  void resize_heap();
  void grow_stack();
  void read_some();
  void fork_once();
  void write_fixed_shared();
  void write_by_descriptor();
  void write_by_reading();
  void move_page_tables();
  void set(uint64_t first, uint64_t count, Page page) {
    for (uint64_t i = first; i < first + count; ++i) pages_[i] = page;
  }
  std::pair<uint64_t, uint64_t> some_range(uint64_t pages_max) {
    const uint64_t first = below(kPages);
    return {first, std::min(1 + below(pages_max), kPages - first)};
  }

  const Objects& objects_;
  std::mt19937_64 random_;
  uint64_t heap_start_;
  uint64_t* operations_;
  std::array<Page, kPages> pages_{};
  uint64_t stack_depth_ = 0;
};

void Mutator::fill(char* page) {
  switch (below(5)) {
    case 0:
      std::memset(page, 0, 4096);
      break;
    case 1:
      page[below(4096)] = static_cast<char>(random_());
      break;
    case 2: {
      volatile char* same = page;
      *same = *same;
      break;
    }
    default:
      for (size_t i = 0; i < 4096; i += 8) {
        const uint64_t word = random_();
        std::memcpy(page + i, &word, 8);
      }
  }
}

void Mutator::write_some() {
  for (int i = 0; i < 32; ++i) {
    const uint64_t page = below(kPages);
    if (pages_[page].kind != kNone && (pages_[page].protection & PROT_WRITE) != 0) fill(address(page));
  }
}

void Mutator::write_run() {
  const auto [first, count] = some_range(256);
  for (uint64_t page = first; page < first + count; ++page)
    if (pages_[page].kind == kAnonymous && (pages_[page].protection & PROT_WRITE) != 0)
      std::memset(address(page), static_cast<int>(below(3)), 4096);
}

void Mutator::map_anonymous(bool huge) {
  auto [first, count] = some_range(128);
  if (huge) {
    first = below(kPages / 512) * 512;
    count = 512;
  }
  if (::mmap(address(first), count * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED,
             -1, 0) == MAP_FAILED)
    ::_exit(11);
  if (huge) ::madvise(address(first), count * 4096, MADV_HUGEPAGE);
  set(first, count, {kAnonymous, PROT_READ | PROT_WRITE});
  if (below(2) == 0)
    for (uint64_t page = first; page < first + count; page += 1 + below(8)) fill(address(page));
}

void Mutator::map_file() {
  auto [first, count] = some_range(64);
  const uint64_t offset = below(kFileBytes / 4096 - count);
  if (::mmap(address(first), count * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_FIXED,
             objects_.file.get(), static_cast<off_t>(offset * 4096)) == MAP_FAILED)
    ::_exit(12);
  set(first, count, {kFile, PROT_READ | PROT_WRITE});
  for (uint64_t page = first; page < first + count; page += 1 + below(4)) fill(address(page));
}

void Mutator::map_object() {
  auto [first, count] = some_range(64);
  const uint64_t offset = below(kObjectBytes / 4096 - count);
  if (::mmap(address(first), count * 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED,
             objects_.source[1].get(), static_cast<off_t>(offset * 4096)) == MAP_FAILED)
    ::_exit(13);
  set(first, count, {kObject, PROT_READ | PROT_WRITE});
}

void Mutator::unmap() {
  const auto [first, count] = some_range(64);
  ::munmap(address(first), count * 4096);
  set(first, count, {});
}

void Mutator::drop() {
  const auto [first, count] = some_range(below(8) == 0 ? 1024 : 64);
  ::madvise(address(first), count * 4096,
            MADV_DONTNEED);  // ENOMEM where there are holes: the rest is dropped
}

void Mutator::protect() {
  const auto [first, count] = some_range(32);
  const int protection =
      std::array{PROT_NONE, PROT_READ, PROT_READ | PROT_WRITE, PROT_READ | PROT_WRITE}[below(4)];
  for (uint64_t page = first; page < first + count; ++page)
    if (pages_[page].kind != kNone && ::mprotect(address(page), 4096, protection) == 0)
      pages_[page].protection = protection;
}

void Mutator::move() {
  const auto [first, count] = some_range(64);
  const auto [to, ignored] = some_range(1);
  const Page kind = pages_[first];
  if (kind.kind == kNone || to + count > kPages || (to < first + count && first < to + count)) return;
  for (uint64_t page = first; page < first + count; ++page)
    if (pages_[page].kind != kind.kind || pages_[page].protection != kind.protection) return;
  const bool moved = ::mremap(address(first), count * 4096, count * 4096, MREMAP_MAYMOVE | MREMAP_FIXED,
                              address(to)) != MAP_FAILED;
  set(first, count, {});
  set(to, count, moved ? kind : Page{});
  if (moved) return;
  // A move of several mappings may fail half way (Linux 6.17 and newer).
  ::munmap(address(first), count * 4096);
  ::munmap(address(to), count * 4096);
}

// Aligned areas of 2 MiB: the kernel moves their page tables, not their pages.
void Mutator::move_page_tables() {
  constexpr uint64_t kCount = 512;
  const uint64_t first = below(kPages / kCount) * kCount;
  const uint64_t to = below(kPages / kCount) * kCount;
  if (first == to) return;
  for (uint64_t page = first; page < first + kCount; ++page)
    if (pages_[page].kind != kAnonymous || pages_[page].protection != pages_[first].protection) return;
  const Page kind = pages_[first];
  const bool moved = ::mremap(address(first), kCount * 4096, kCount * 4096, MREMAP_MAYMOVE | MREMAP_FIXED,
                              address(to)) != MAP_FAILED;
  set(first, kCount, {});
  set(to, kCount, moved ? kind : Page{});
  if (moved) return;
  ::munmap(address(first), kCount * 4096);
  ::munmap(address(to), kCount * 4096);
}

// Shrinks an area and lets it grow again at once: the same mapping to userfaultfd, with fresh pages.
void Mutator::resize_in_place() {
  const auto [first, count] = some_range(32);
  if (count < 2) return;
  for (uint64_t page = first; page < first + count; ++page)
    if (pages_[page].kind != kAnonymous || pages_[page].protection != (PROT_READ | PROT_WRITE)) return;
  ::munmap(address(first + count - 1), 4096);
  set(first + count - 1, 1, {});
  if (::mremap(address(first), (count - 1) * 4096, count * 4096, 0) != MAP_FAILED)
    set(first + count - 1, 1, {kAnonymous, PROT_READ | PROT_WRITE});
}

void Mutator::resize_heap() {
  const uint64_t now = reinterpret_cast<uint64_t>(::sbrk(0));
  const uint64_t wanted = heap_start_ + below(kHeapMax / 4096) * 4096;
  ::sbrk(static_cast<intptr_t>(wanted - now));
  for (uint64_t at = heap_start_; at + 4096 <= wanted; at += 4096 * (1 + below(16)))
    fill(reinterpret_cast<char*>(at));
}

void Mutator::grow_stack() {
  if (stack_depth_ == 0 || below(16) == 0) {
    ::munmap(reinterpret_cast<void*>(kStackTop - kStackMax), kStackMax);
    if (::mmap(reinterpret_cast<void*>(kStackTop - 16 * 4096), 16 * 4096, PROT_READ | PROT_WRITE,
               MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_GROWSDOWN, -1, 0) == MAP_FAILED)
      ::_exit(14);
    stack_depth_ = 16;
  }
  if (stack_depth_ * 4096 < kStackMax - 4096) ++stack_depth_;
  fill(reinterpret_cast<char*>(kStackTop - stack_depth_ * 4096));
}

void Mutator::read_some() {
  for (int i = 0; i < 16; ++i) {
    const uint64_t page = below(kPages);
    if ((pages_[page].protection & PROT_READ) != 0) (void)*const_cast<volatile char*>(address(page));
  }
}

// A child shares all pages copy-on-write for a while.
void Mutator::fork_once() {
  const pid_t child = ::fork();
  if (child == 0) ::_exit(0);
  write_some();
  ::waitpid(child, nullptr, 0);
}

void Mutator::write_fixed_shared() {
  char* base = reinterpret_cast<char*>(kFixedShared);
  if (below(64) == 0 && ::mmap(base, kObjectBytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED,
                               objects_.source[0].get(), 0) == MAP_FAILED)
    ::_exit(15);
  const uint64_t page = below(kObjectBytes / 4096);
  if (below(8) == 0)
    ::madvise(base + page * 4096, 4096, MADV_REMOVE);
  else
    fill(base + page * 4096);
  // The page stays, its entry in the page table goes, and with it what the kernel knew of the write.
  if (below(4) == 0) ::madvise(base + page * 4096, 4096, MADV_DONTNEED);
}

// The kernel writes, and finds the page protected.
void Mutator::write_by_reading() {
  const uint64_t page = below(kPages);
  if (pages_[page].kind == kNone || (pages_[page].protection & PROT_WRITE) == 0) return;
  const uint64_t at = below(kFileBytes - 4096);
  if (::pread(objects_.file.get(), address(page), 4096, static_cast<off_t>(at)) != 4096) ::_exit(17);
}

void Mutator::write_by_descriptor() {
  std::array<char, 5000> block;
  block.fill(static_cast<char>(below(3)));
  const uint64_t at = below(kObjectBytes - block.size());
  if (below(4) == 0)
    ::fallocate(objects_.source[1].get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                static_cast<off_t>(at / 4096 * 4096), 8192);
  else if (::pwrite(objects_.source[1].get(), block.data(), block.size(), static_cast<off_t>(at)) < 0)
    ::_exit(16);
}

void Mutator::run() {
  for (;;) {
    switch (below(40)) {
      case 0:
        map_anonymous(false);
        break;
      case 1:
        if (below(8) == 0) map_anonymous(true);
        break;
      case 2:
        map_file();
        break;
      case 3:
        map_object();
        break;
      case 4:
        unmap();
        break;
      case 5:
      case 6:
        drop();
        break;
      case 7:
        protect();
        break;
      case 8:
      case 9:
        move();
        break;
      case 10:
        resize_in_place();
        break;
      case 11:
        if (below(4) == 0) resize_heap();
        break;
      case 12:
      case 13:
        grow_stack();
        break;
      case 14:
      case 15:
        read_some();
        break;
      case 16:
        if (below(8) == 0) fork_once();
        break;
      case 17:
      case 18:
      case 19:
        write_fixed_shared();
        break;
      case 20:
        write_by_descriptor();
        break;
      case 21:
      case 22:
        write_run();
        break;
      case 23:
      case 24:
        write_by_reading();
        break;
      case 25:
        if (below(8) == 0) move_page_tables();
        break;
      default:
        write_some();
    }
    __atomic_add_fetch(operations_, 1, __ATOMIC_RELAXED);
  }
}

// Writes to the pages of the threads, each to its own word of a page.
void write_for_ever(const Objects& objects, uint64_t seed, uint64_t word, uint64_t* writes) {
  std::mt19937_64 random(seed + word);
  for (uint64_t i = 1;; ++i) {
    if (i % 512 == 0) ::usleep(300);  // the mutator wants a processor, too
    char* const place = reinterpret_cast<char*>(kThreads + random() % kThreadPages * 4096 + word * 64);
    if (random() % 64 == 0) {
      if (::pread(objects.file.get(), place, 64, static_cast<off_t>(random() % (kFileBytes - 64))) != 64)
        ::_exit(18);
    } else {
      const uint64_t value = random();
      std::memcpy(place, &value, sizeof value);
    }
    __atomic_add_fetch(writes, 1, __ATOMIC_RELAXED);
  }
}

void start_threads(const Objects& objects, uint64_t seed, uint64_t* writes) {
  if (::mmap(reinterpret_cast<void*>(kThreads), kThreadPages * 4096, PROT_READ | PROT_WRITE,
             MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == MAP_FAILED)
    ::_exit(19);
  for (uint64_t word = 0; word < 2; ++word)
    std::thread([&objects, seed, word, writes] { write_for_ever(objects, seed, word, writes); }).detach();
}

}  // namespace

Child::~Child() {
  if (pid_ <= 0) return;
  ::kill(pid_, SIGKILL);
  ::waitpid(pid_, nullptr, 0);
}

void Child::stop() {
  int status = 0;
  stopped_ = true;
  ::kill(pid_, SIGSTOP);
  ::waitpid(pid_, &status, WUNTRACED);
  if (!WIFSTOPPED(status)) std::fprintf(stderr, "the child ended with status %#x\n", status);
}

void Child::go() {
  stopped_ = false;
  ::kill(pid_, SIGCONT);
}

Result<Fd> take_userfaultfd(pid_t pid, uint64_t number) {
  const Fd process(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0)));
  Fd taken(static_cast<int>(::syscall(SYS_pidfd_getfd, process.get(), number, 0)));
  if (!taken.valid()) return fail("take the userfaultfd out of", "pid " + std::to_string(pid));
  return taken;
}

Result<Source> start_source(const Objects& objects, uint64_t seed) {
  Source source;
  void* counter = ::mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (counter == MAP_FAILED) return fail("mmap", "the counter");
  auto* shared = static_cast<uint64_t*>(counter);  // [0] operations, [1] userfaultfd + 1, [2] writes
  source.operations = shared;
  source.writes = shared + 2;
  source.heap_start = (reinterpret_cast<uint64_t>(::sbrk(0)) + 4095) / 4096 * 4096;
  const pid_t pid = ::fork();
  if (pid < 0) return fail("fork", "the source");
  if (pid == 0) {
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    static Mutator mutator(objects, seed, source.heap_start, shared);
    if (::mmap(reinterpret_cast<void*>(kFixedShared), kObjectBytes, PROT_READ | PROT_WRITE,
               MAP_SHARED | MAP_FIXED, objects.source[0].get(), 0) == MAP_FAILED)
      ::_exit(10);
    shared[1] = static_cast<uint64_t>(::syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK)) + 1;
    ::raise(SIGSTOP);
    start_threads(objects, seed, shared + 2);
    mutator.run();
  }
  source.child = Child(pid);
  int status = 0;
  ::waitpid(pid, &status, WUNTRACED);
  GODWIT_ASSIGN(source.userfaultfd, take_userfaultfd(pid, shared[1] - 1));
  return source;
}

}  // namespace godwit::runtime::arena
