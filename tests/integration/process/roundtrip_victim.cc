// A program for roundtrip_test: several threads and a child that check themselves all the time, and a report
// in a file that is mapped by nobody: the only thing that outlives the process in its old place.
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <atomic>
#include <csetjmp>
#include <cstdint>
#include <cstdlib>
#include <cstring>

#include "base/clock.h"
#include "tests/integration/process/registers_hold.h"
#include "tests/integration/process/roundtrip_report.h"

namespace {

using godwit::runtime::test::registers_hold;
using godwit::runtime::test::Report;

constexpr int kThreads = 3;
constexpr size_t kMemory = size_t{8} << 20;

std::atomic<uint64_t> failures[8];
std::atomic<uint64_t> rounds[kThreads];
std::atomic<uint64_t> posix_ticks, interval_ticks;
std::atomic<uint64_t>* shared;  // with the child
thread_local uint64_t local_rounds = 0;

void* check_thread(void* argument) {
  const auto index = reinterpret_cast<uintptr_t>(argument);
  auto* memory = static_cast<uint64_t*>(
      ::mmap(nullptr, kMemory, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  int64_t last = godwit::monotonic_ns();
  for (uint64_t i = 1;; ++i) {
    if (!registers_hold(i * (index + 1))) ++failures[0];
    if (++local_rounds != i) ++failures[1];
    uint64_t& word = memory[(i * 512) % (kMemory / 8)];
    const uint64_t expected = i >= kMemory / 4096 ? i - kMemory / 4096 : 0;
    if (word != expected) ++failures[2];
    word = i;
    const int64_t now = godwit::monotonic_ns();
    if (now < last || now - last > 8'000'000'000) ++failures[3];
    last = now;
    const int cpu = ::sched_getcpu();  // from struct rseq
    if (cpu < 0 || cpu >= 4096) ++failures[4];
    ++rounds[index];
    if (index == 1) ::usleep(300);
  }
}

void on_signal(int signal, siginfo_t* information, void*) {
  if (signal == SIGALRM) ++interval_ticks;
  if (signal != SIGRTMIN) return;
  if (information->si_value.sival_int != 4711) ++failures[5];
  ++posix_ticks;
}

void start_timers() {
  struct sigaction action {};
  action.sa_sigaction = on_signal;
  action.sa_flags = SA_SIGINFO | SA_RESTART | SA_ONSTACK;
  ::sigaction(SIGRTMIN, &action, nullptr);
  ::sigaction(SIGALRM, &action, nullptr);
  const itimerval interval{{0, 7000}, {0, 7000}};
  ::setitimer(ITIMER_REAL, &interval, nullptr);
  sigevent event{};
  event.sigev_notify = SIGEV_SIGNAL;
  event.sigev_signo = SIGRTMIN;
  event.sigev_value.sival_int = 4711;
  timer_t gap{}, timer{};
  ::timer_create(CLOCK_MONOTONIC, &event, &gap);
  ::timer_create(CLOCK_MONOTONIC, &event, &timer);
  ::timer_delete(gap);  // so that the ids do not begin at 0
  const itimerspec value{{0, 5'000'000}, {0, 5'000'000}};
  ::timer_settime(timer, 0, &value, nullptr);
}

[[noreturn]] void be_the_child() {
  ::setpgid(0, 0);
  ::prctl(PR_SET_NAME, "the-child");
  const pid_t parent = ::getppid();
  for (;;) {
    ++*shared;
    if (::getppid() != parent || ::getpgrp() != ::getpid()) ++failures[6];
    shared[1] = failures[6].load();
    ::usleep(500);
  }
}

// All that the parent cannot tell from memory alone: ids, credentials, pending signals, descriptors.
uint64_t look_around(pid_t child, int counter, const uint64_t signal_mask) {
  uint64_t wrong = 0;
  if (::getpid() != 1 || ::getsid(0) != 1 || ::kill(child, 0) != 0) wrong |= 1;
  if (::geteuid() != 1234 || ::getgid() != 1235) wrong |= 2;
  uint64_t value = 0;
  if (::eventfd_read(counter, &value) != 0 || value != 77 || ::eventfd_write(counter, 77) != 0) wrong |= 4;
  sigset_t now;
  ::sigprocmask(SIG_SETMASK, nullptr, &now);
  if (std::memcmp(&now, &signal_mask, 8) != 0) wrong |= 8;
  ::sigpending(&now);
  if (::sigismember(&now, SIGUSR2) != 1 || ::sigismember(&now, SIGUSR1) != 0) wrong |= 16;
  char name[32] = {};
  ::prctl(PR_GET_NAME, name);
  if (std::strcmp(name, "the-victim") != 0) wrong |= 32;
  if (::umask(0027) != 0027) wrong |= 64;
  stack_t stack{};
  ::sigaltstack(nullptr, &stack);
  if (stack.ss_size != 65536) wrong |= 128;
  if (::prctl(PR_GET_THP_DISABLE, 0, 0, 0, 0) != 1) wrong |= 256;
  return wrong;
}

// Memory that wants huge pages, of a process that may have none: a page of it is a page.
void want_huge_pages() {
  constexpr size_t kHuge = size_t{2} << 20;
  constexpr size_t kSize = 4 * kHuge;
  ::prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0);
  auto* const memory =
      static_cast<char*>(::mmap(nullptr, kSize, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  ::madvise(memory, kSize, MADV_HUGEPAGE);
  for (size_t at = 0; at < kSize; at += kHuge / 2) memory[at] = 1;
}

}  // namespace

int main(int, char** arguments) {
  const int report_file = ::open(arguments[1], O_RDWR | O_CLOEXEC);
  shared = static_cast<std::atomic<uint64_t>*>(
      ::mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
  stack_t stack{std::malloc(65536), 0, 65536};
  ::sigaltstack(&stack, nullptr);
  ::umask(0027);
  want_huge_pages();
  ::prctl(PR_SET_NAME, "the-victim");
  const int counter = ::eventfd(77, EFD_NONBLOCK);
  if (::setresgid(1235, 1235, 1235) != 0 || ::setresuid(1234, 1234, 1234) != 0) return 1;
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);  // dies with the test
  const pid_t child = ::fork();
  if (child == 0) be_the_child();
  start_timers();
  sigset_t blocked;
  ::sigemptyset(&blocked);
  ::sigaddset(&blocked, SIGUSR2);
  ::sigprocmask(SIG_SETMASK, &blocked, nullptr);
  ::raise(SIGUSR2);
  uint64_t mask = 0;
  std::memcpy(&mask, &blocked, sizeof mask);
  for (uintptr_t i = 0; i < kThreads; ++i) {
    pthread_t thread{};
    ::pthread_create(&thread, nullptr, check_thread, reinterpret_cast<void*>(i));
  }
  Report report;
  for (;;) {
    ++report.rounds;
    report.oddities |= look_around(child, counter, mask);
    for (size_t i = 0; i < 8; ++i) report.failures[i] = failures[i];
    for (size_t i = 0; i < kThreads; ++i) report.thread_rounds[i] = rounds[i];
    report.posix_ticks = posix_ticks;
    report.interval_ticks = interval_ticks;
    report.child_rounds = *shared;
    report.child_failures = shared[1];
    if (::pwrite(report_file, &report, sizeof report, 0) != sizeof report) return 1;
    ::usleep(1000);
  }
}
