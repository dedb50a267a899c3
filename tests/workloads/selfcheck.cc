// A multi-threaded program that checks its own memory, TLS, FPU registers, timers, signals, pipes and clock
// all the time. It serves its findings by TCP: for each line received, one line of JSON with the rounds that
// each checker has done and everything that was ever found wrong.
#include <fcntl.h>
#include <fmt/format.h>
#include <immintrin.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <condition_variable>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <functional>
#include <map>
#include <mutex>
#include <nlohmann/json.hpp>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "base/clock.h"

namespace {

using godwit::monotonic_ns;

std::mutex findings_mutex;
std::vector<std::string> findings;  // under findings_mutex

void found(const std::string& what) {
  const std::lock_guard lock(findings_mutex);
  if (findings.size() < 100) findings.push_back(what);
}

struct Checker {
  std::string name;
  std::function<void(std::atomic<uint64_t>&)> work;
  std::atomic<uint64_t> rounds = 0;
};

constexpr size_t kPage = 4096;

// Every page carries its index and version, at both of its ends.
void check_memory(std::atomic<uint64_t>& rounds) {
  constexpr size_t kPages = 8192;
  auto* memory = static_cast<std::byte*>(
      ::mmap(nullptr, kPages * kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  std::vector<uint64_t> versions(kPages, 0);
  std::mt19937_64 random(1);
  for (;; ++rounds) {
    for (int i = 0; i < 200; ++i) {
      const size_t page = random() % kPages;
      uint64_t* const first = reinterpret_cast<uint64_t*>(memory + page * kPage);
      uint64_t* const last = first + kPage / sizeof(uint64_t) - 1;
      const uint64_t expected = versions[page] == 0 ? 0 : page * 1'000'003 + versions[page];
      if (*first != expected || *last != expected)
        found(fmt::format("memory: page {} version {} holds {} and {}", page, versions[page], *first, *last));
      if (random() % 64 == 0) {
        ::madvise(memory + page * kPage, kPage, MADV_DONTNEED);
        versions[page] = 0;
      } else {
        ++versions[page];
        *first = *last = page * 1'000'003 + versions[page];
      }
    }
    ::usleep(1000);
  }
}

// Far more is mapped than there is memory, as runtimes with a collected heap do; few pages of it are there.
void check_sparse(std::atomic<uint64_t>& rounds) {
  constexpr size_t kBytes = size_t{64} << 30;
  constexpr size_t kStride = size_t{256} << 20;
  constexpr int kFlags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
  auto* memory = static_cast<std::byte*>(::mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, kFlags, -1, 0));
  void* reserved = ::mmap(nullptr, kBytes, PROT_NONE, kFlags, -1, 0);
  if (memory == MAP_FAILED || reserved == MAP_FAILED)
    return found(fmt::format("sparse: mmap: {}", std::strerror(errno)));
  for (;; ++rounds) {
    for (size_t at = 0; at < kBytes; at += kStride) {
      auto* const number = reinterpret_cast<uint64_t*>(memory + at);
      const uint64_t expected = rounds == 0 ? 0 : at + rounds;
      if (*number != expected)
        found(fmt::format("sparse: {} at {} GiB, not {}", *number, at >> 30, expected));
      *number = at + rounds + 1;
    }
    ::usleep(2000);
  }
}

// The mappings within a few pages of an address, with their flags (smaps of proc(5)).
std::string mappings_around(const std::byte* address) {
  constexpr uint64_t kNearby = 64 * kPage;
  const auto place = reinterpret_cast<uint64_t>(address);
  std::ifstream smaps("/proc/self/smaps");
  std::string found;
  bool near = false;
  for (std::string line; std::getline(smaps, line);) {
    uint64_t start = 0;
    uint64_t end = 0;
    if (std::sscanf(line.c_str(), "%lx-%lx ", &start, &end) == 2) {
      near = start < place + kNearby && end + kNearby > place;
      if (near) found += fmt::format("{:x}-{:x}", start, end);
    } else if (near && line.starts_with("VmFlags")) {
      found += line.substr(std::strlen("VmFlags:")) + ", ";
    }
  }
  return found;
}

void check_mappings(std::atomic<uint64_t>& rounds) {
  std::map<std::byte*, std::pair<size_t, uint64_t>> mappings;  // pages, seed
  std::mt19937_64 random(2);
  const auto fill = [](std::byte* start, size_t pages, uint64_t seed) {
    for (size_t i = 0; i < pages; ++i) std::memcpy(start + i * kPage + 8, &seed, sizeof seed);
  };
  const auto verify = [](std::byte* start, size_t pages, uint64_t seed) {
    for (size_t i = 0; i < pages; ++i)
      if (std::memcmp(start + i * kPage + 8, &seed, sizeof seed) != 0)
        found(fmt::format("mappings: page {} of {} is not what was written", i, pages));
  };
  for (;; ++rounds) {
    if (mappings.size() < 40) {
      const size_t pages = 1 + random() % 32;
      void* made = ::mmap(nullptr, pages * kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
      if (made == MAP_FAILED) return found(fmt::format("mappings: mmap: {}", std::strerror(errno)));
      const uint64_t seed = random() | 1;
      fill(static_cast<std::byte*>(made), pages, seed);
      mappings[static_cast<std::byte*>(made)] = {pages, seed};
    }
    auto chosen = std::next(mappings.begin(), static_cast<long>(random() % mappings.size()));
    const auto [pages, seed] = chosen->second;
    verify(chosen->first, pages, seed);
    if (random() % 3 == 0) {
      std::byte* const old = chosen->first;
      mappings.erase(chosen);
      void* moved = ::mremap(old, pages * kPage, (pages + 1) * kPage, MREMAP_MAYMOVE);
      if (moved == MAP_FAILED)
        return found(fmt::format("mappings: mremap of {} pages at {}: {}; {}", pages, fmt::ptr(old),
                                 std::strerror(errno), mappings_around(old)));
      fill(static_cast<std::byte*>(moved), pages + 1, seed);
      mappings[static_cast<std::byte*>(moved)] = {pages + 1, seed};
    } else if (random() % 3 == 0) {
      ::munmap(chosen->first, pages * kPage);
      mappings.erase(chosen);
    }
    ::usleep(2000);
  }
}

// Values stay in vector registers across a long stretch of arithmetic.
void check_registers(std::atomic<uint64_t>& rounds) {
  for (uint64_t seed = 1;; ++seed, ++rounds) {
    std::array<double, 4> result{};
    const double start = static_cast<double>(seed % 1000);
    asm volatile(
        "vmovddup %1, %%xmm7\n"
        "vinsertf128 $1, %%xmm7, %%ymm7, %%ymm7\n"
        "vmovapd %%ymm7, %%ymm6\n"
        "mov $2000000, %%rcx\n"
        "1: vaddpd %%ymm6, %%ymm7, %%ymm7\n"
        "dec %%rcx\n"
        "jnz 1b\n"
        "vmovupd %%ymm7, %0\n"
        : "=m"(result)
        : "m"(start)
        : "rcx", "xmm6", "xmm7", "cc", "memory");
    for (const double value : result)
      if (value != start * 2000001) found(fmt::format("registers: {} instead of {}", value, start * 2000001));
    ::usleep(3000);
  }
}

thread_local uint64_t own_number = 0;
thread_local std::array<char, 300> own_text{};

void check_tls(std::atomic<uint64_t>& rounds) {
  const uint64_t number = reinterpret_cast<uintptr_t>(&rounds) ^ static_cast<uint64_t>(::gettid());
  own_number = number;
  own_text.fill(static_cast<char>('a' + number % 26));
  for (;; ++rounds) {
    if (own_number != number || own_text[299] != static_cast<char>('a' + number % 26)) found("tls: changed");
    if ((reinterpret_cast<uintptr_t>(&rounds) ^ static_cast<uint64_t>(::gettid())) != number)
      found("tls: the thread has another number");
    ::usleep(1000);
  }
}

void check_clock(std::atomic<uint64_t>& rounds) {
  int64_t last_ns = monotonic_ns();
  int64_t last_boot_ns = godwit::clock_ns(CLOCK_BOOTTIME);
  for (;; ++rounds) {
    const int64_t now_ns = monotonic_ns();
    const int64_t boot_ns = godwit::clock_ns(CLOCK_BOOTTIME);
    if (now_ns < last_ns || boot_ns < last_boot_ns) found("clock: ran backwards");
    if (now_ns - last_ns > 30'000'000'000) found("clock: jumped by more than 30 s");
    last_ns = now_ns;
    last_boot_ns = boot_ns;
    const int64_t before_ns = monotonic_ns();
    const timespec nap{.tv_sec = 0, .tv_nsec = 2'000'000};
    ::nanosleep(&nap, nullptr);
    if (monotonic_ns() - before_ns < 1'900'000) found("clock: a sleep of 2 ms was shorter");
  }
}

std::atomic<uint64_t> alarms = 0;
std::atomic<uint64_t> timer_signals = 0;

void check_timers(std::atomic<uint64_t>& rounds) {
  const int timer = ::timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC);
  const itimerspec every{.it_interval = {.tv_sec = 0, .tv_nsec = 5'000'000},
                         .it_value = {.tv_sec = 0, .tv_nsec = 5'000'000}};
  ::timerfd_settime(timer, 0, &every, nullptr);
  sigevent event{};
  event.sigev_notify = SIGEV_SIGNAL;
  event.sigev_signo = SIGRTMIN + 1;
  timer_t posix_timer{};
  ::timer_create(CLOCK_MONOTONIC, &event, &posix_timer);
  ::timer_settime(posix_timer, 0, &every, nullptr);
  const itimerval interval{.it_interval = {.tv_sec = 0, .tv_usec = 10'000},
                           .it_value = {.tv_sec = 0, .tv_usec = 10'000}};
  ::setitimer(ITIMER_REAL, &interval, nullptr);
  uint64_t total = 0;
  const int64_t begun_ns = monotonic_ns();
  for (;; ++rounds) {
    uint64_t ticks = 0;
    if (::read(timer, &ticks, sizeof ticks) != sizeof ticks) found("timers: the timerfd cannot be read");
    total += ticks;
    const auto due = static_cast<uint64_t>((monotonic_ns() - begun_ns) / 5'000'000);
    if (total > due + 2) found(fmt::format("timers: {} ticks where {} were due", total, due));
    if (total % 200 == 0) {
      const uint64_t before = alarms + timer_signals;
      ::usleep(200'000);
      if (alarms + timer_signals == before) found("timers: no signal for 200 ms");
    }
  }
}

// Two threads pass a number to and fro: through a pipe, an eventfd and a condition variable.
void check_channels(std::atomic<uint64_t>& rounds) {
  int there[2];
  if (::pipe2(there, O_CLOEXEC) != 0) return found("channels: no pipe");
  const int back = ::eventfd(0, EFD_CLOEXEC);
  std::mutex mutex;
  std::condition_variable turn;
  uint64_t shared = 0;
  std::thread partner([&] {
    for (;;) {
      uint64_t number = 0;
      if (::read(there[0], &number, sizeof number) != sizeof number) return found("channels: the pipe broke");
      {
        const std::lock_guard lock(mutex);
        shared = number * 2;
        turn.notify_one();
      }
      const uint64_t answer = number + 1;
      if (::write(back, &answer, sizeof answer) != sizeof answer) return found("channels: the eventfd broke");
    }
  });
  for (uint64_t number = 1;; ++number, ++rounds) {
    if (::write(there[1], &number, sizeof number) != sizeof number) return found("channels: the pipe broke");
    {
      std::unique_lock lock(mutex);
      if (!turn.wait_for(lock, std::chrono::seconds(20), [&] { return shared == number * 2; }))
        found("channels: waited for 20 s");
    }
    uint64_t answer = 0;
    if (::read(back, &answer, sizeof answer) != sizeof answer || answer != number + 1)
      found("channels: the eventfd gave another number");
    ::usleep(500);
  }
}

void serve(std::vector<Checker>& checkers, uint16_t port) {
  const int listener = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  const int on = 1;
  ::setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(port);
  if (::bind(listener, reinterpret_cast<sockaddr*>(&address), sizeof address) != 0 ||
      ::listen(listener, 16) != 0)
    std::abort();
  const int epoll = ::epoll_create1(EPOLL_CLOEXEC);
  const auto watch = [&](int fd) {
    epoll_event event{.events = EPOLLIN, .data = {.fd = fd}};
    ::epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event);
  };
  watch(listener);
  for (;;) {
    epoll_event event{};
    const int ready = ::epoll_wait(epoll, &event, 1, -1);
    if (ready < 0 && errno == EINTR) continue;
    if (ready != 1) {
      found(fmt::format("serve: epoll_wait: {}", std::strerror(errno)));
      continue;
    }
    if (event.data.fd == listener) {
      watch(::accept4(listener, nullptr, nullptr, SOCK_CLOEXEC));
      continue;
    }
    char line[256];
    if (::recv(event.data.fd, line, sizeof line, 0) <= 0) {
      ::close(event.data.fd);
      continue;
    }
    nlohmann::json answer;
    for (const Checker& checker : checkers) answer["rounds"][checker.name] = checker.rounds.load();
    answer["signals"] = alarms + timer_signals;
    {
      const std::lock_guard lock(findings_mutex);
      answer["wrong"] = findings;
    }
    const std::string text = answer.dump() + "\n";
    if (::send(event.data.fd, text.data(), text.size(), MSG_NOSIGNAL) < 0) ::close(event.data.fd);
  }
}

}  // namespace

int main(int argc, char** argv) {
  const auto port = static_cast<uint16_t>(argc > 1 ? std::stoi(argv[1]) : 7000);
  struct sigaction action {};
  action.sa_flags = SA_RESTART;
  action.sa_handler = [](int) { ++alarms; };
  ::sigaction(SIGALRM, &action, nullptr);
  action.sa_handler = [](int) { ++timer_signals; };
  ::sigaction(SIGRTMIN + 1, &action, nullptr);
  const std::vector<std::pair<std::string, std::function<void(std::atomic<uint64_t>&)>>> works = {
      {"memory", check_memory}, {"mappings", check_mappings}, {"registers", check_registers},
      {"tls 1", check_tls},     {"tls 2", check_tls},         {"tls 3", check_tls},
      {"clock", check_clock},   {"timers", check_timers},     {"channels", check_channels},
      {"sparse", check_sparse}};
  std::vector<Checker> checkers(works.size());
  // Signals are the serving thread's: a checker's sleep is not to be cut short.
  sigset_t signals{};
  ::sigaddset(&signals, SIGALRM);
  ::sigaddset(&signals, SIGRTMIN + 1);
  ::pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  std::vector<std::thread> threads;
  for (size_t i = 0; i < works.size(); ++i) {
    checkers[i].name = works[i].first;
    threads.emplace_back(works[i].second, std::ref(checkers[i].rounds));
  }
  ::pthread_sigmask(SIG_UNBLOCK, &signals, nullptr);
  serve(checkers, port);
}
