// Memory that is written where no page table shows it, and mappings that never keep their place. What is not as
// it was left is told in /data/memories.log ("wrong: ..."), as is how far it has come ("turn N").
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { kPage = 4096, kPages = 256, kGrowing = 48 };

static int log_file;

__attribute__((format(printf, 1, 2))) static void tell(const char* format, ...) {
  char line[256];
  va_list arguments;
  va_start(arguments, format);
  const int length = vsnprintf(line, sizeof line, format, arguments);
  va_end(arguments);
  if (write(log_file, line, (size_t)length) != length) _exit(1);
}

static void check(const char* what, uint64_t is, uint64_t wanted) {
  static unsigned told;
  if (is != wanted && ++told < 32) tell("wrong: %s is %lu, not %lu\n", what, is, wanted);
}

static int make_memory(const char* name) {
  const int fd = memfd_create(name, MFD_CLOEXEC);
  if (fd < 0 || ftruncate(fd, kPages * kPage) != 0) tell("wrong: memfd_create says %s\n", strerror(errno));
  return fd;
}

static uint64_t get(int fd, uint64_t page) {
  uint64_t value = 0;
  if (pread(fd, &value, sizeof value, (off_t)(page * kPage)) != sizeof value)
    tell("wrong: pread says %s\n", strerror(errno));
  return value;
}

static void put(int fd, uint64_t page, uint64_t value) {
  if (pwrite(fd, &value, sizeof value, (off_t)(page * kPage)) != sizeof value)
    tell("wrong: pwrite says %s\n", strerror(errno));
}

static void pause_us(long us) {
  const struct timespec time = {.tv_sec = 0, .tv_nsec = us * 1000};
  nanosleep(&time, NULL);
}

// A shared mapping that grows and shrinks as a whole, and moves when it must.
static void regrow(void) {
  char* memory = mmap(NULL, kGrowing * kPage, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  uint64_t pages = kGrowing;
  for (uint64_t i = 0; i < pages; ++i) *(volatile uint64_t*)(memory + i * kPage) = i;
  for (uint64_t turn = 1;; ++turn) {
    const uint64_t wanted = 1 + turn * 7 % kGrowing;
    void* moved = mremap(memory, pages * kPage, wanted * kPage, MREMAP_MAYMOVE);
    if (moved == MAP_FAILED) {
      tell("wrong: mremap says %s\n", strerror(errno));
      _exit(1);
    }
    memory = moved;
    pages = wanted;
    for (uint64_t i = 0; i < pages; ++i) check("a page that moved", *(volatile uint64_t*)(memory + i * kPage), i);
    if (turn % 64 == 0) pause_us(100);
  }
}

int main(void) {
  log_file = open("/data/memories.log", O_WRONLY | O_CREAT | O_APPEND, 0644);
  const int unmapped = make_memory("unmapped");
  const int mapped = make_memory("mapped");
  const int idle = make_memory("idle");
  const int moment = make_memory("moment");
  const volatile uint64_t* window = mmap(NULL, kPages * kPage, PROT_READ, MAP_SHARED, mapped, 0);
  for (uint64_t page = 0; page < kPages; ++page) put(idle, page, page + 1);
  const pid_t child = fork();
  if (child == 0) regrow();
  int fresh = make_memory("fresh");
  uint64_t born = 0;
  for (uint64_t turn = 0;; ++turn) {
    const uint64_t page = turn % kPages;
    put(unmapped, page, turn);
    put(mapped, page, turn);
    volatile uint64_t* view = mmap(NULL, kPages * kPage, PROT_READ | PROT_WRITE, MAP_SHARED, moment, 0);
    view[page * kPage / sizeof *view] = turn;
    munmap((void*)view, kPages * kPage);
    pause_us(300);
    check("an unmapped memfd", get(unmapped, page), turn);
    check("a mapped memfd", window[page * kPage / sizeof *window], turn);
    check("a memfd mapped for a moment", get(moment, page), turn);
    check("a new memfd", get(fresh, 3), born);
    if (turn >= kPages) check("an unmapped memfd, of old", get(unmapped, (page + 1) % kPages), turn + 1 - kPages);
    if (turn % 1000 == 0)
      for (uint64_t i = 0; i < kPages; ++i) check("an idle memfd", get(idle, i), i + 1);
    if (turn % 8 == 0) {
      close(fresh);
      fresh = make_memory("fresh");
      born = turn;
      put(fresh, 3, born);
    }
    int status = 0;
    if (waitpid(child, &status, WNOHANG) == child) tell("wrong: the child has ended with status %x\n", status);
    if (turn % 1000 == 0) tell("turn %lu\n", turn);
  }
}
