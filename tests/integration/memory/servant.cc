#include <fcntl.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <thread>

#include "tests/integration/memory/arena.h"

namespace godwit::runtime::arena {
namespace {

void store_bytes(uint64_t address, uint64_t count, uint64_t value, uint64_t step) {
  for (uint64_t i = 0; i < count; ++i)
    *reinterpret_cast<volatile char*>(address + i * step * 4096) = static_cast<char>(value);
}

void end_with(const char* what) {
  std::perror(what);
  std::abort();
}

// A mapping between two others of its kind: where it cannot grow it moves. Each page holds its number.
int64_t regrow(uint64_t ms) {
  constexpr uint64_t kPagesMax = 48;
  constexpr int kShared = MAP_SHARED | MAP_ANONYMOUS;
  const auto number_of = [](char* page) { return reinterpret_cast<volatile uint64_t*>(page); };
  void* made = ::mmap(nullptr, kPagesMax * 4096, PROT_READ | PROT_WRITE, kShared, -1, 0);
  if (made == MAP_FAILED) return -errno;
  char* memory = static_cast<char*>(made);
  uint64_t pages = kPagesMax;
  for (uint64_t i = 0; i < pages; ++i) *number_of(memory + i * 4096) = i;
  const auto until = std::chrono::steady_clock::now() + std::chrono::milliseconds(ms);
  for (uint64_t turn = 1; std::chrono::steady_clock::now() < until; ++turn) {
    // The object keeps what it is shrunk by: pages come back as they were.
    const uint64_t wanted = 1 + turn * 7 % kPagesMax;
    made = ::mremap(memory, pages * 4096, wanted * 4096, MREMAP_MAYMOVE);
    if (made == MAP_FAILED) return -errno;
    memory = static_cast<char*>(made);
    pages = wanted;
    for (uint64_t i = 0; i < pages; ++i)
      if (*number_of(memory + i * 4096) != i) return -EILSEQ;
    *number_of(memory + turn % pages * 4096) = turn % pages;
    if (turn % 16 != 0) continue;
    // Something in its way, for a while.
    void* const neighbour = ::mmap(memory + pages * 4096, 4096, PROT_READ | PROT_WRITE, kShared, -1, 0);
    if (turn % 32 == 0 && neighbour != MAP_FAILED) ::munmap(neighbour, 4096);
  }
  return 0;
}

}  // namespace

int64_t Servant::carry_out(const Order& order) {
  const uint64_t(&a)[7] = order.arguments;
  switch (order.kind) {
    case Order::kCall: {
      const long result = ::syscall(static_cast<long>(a[0]), a[1], a[2], a[3], a[4], a[5], a[6]);
      return result < 0 ? -errno : result;
    }
    case Order::kStore:
      store_bytes(a[0], a[1], a[2], a[3]);
      return 0;
    case Order::kLoad:
      for (uint64_t i = 0; i < a[1]; ++i) (void)*reinterpret_cast<volatile char*>(a[0] + i * 4096);
      return 0;
    case Order::kStoreInChild: {
      const pid_t child = ::fork();
      if (child == 0) {
        store_bytes(a[0], a[1], a[2], 1);
        ::_exit(0);
      }
      int status = -1;
      return ::waitpid(child, &status, 0) == child && status == 0 ? 0 : -ECHILD;
    }
    case Order::kThreads:
      for (uint64_t i = 0; i < a[0]; ++i) std::thread([] {}).join();
      return 0;
    case Order::kRegrow:
      return regrow(a[0]);
  }
  return -EINVAL;
}

void Servant::serve(int channel) {
  Order order;
  while (::read(channel, &order, sizeof order) == sizeof order) {
    const int64_t result = carry_out(order);
    if (::write(channel, &result, sizeof result) != sizeof result) break;
  }
  ::_exit(0);
}

Result<std::unique_ptr<Servant>> Servant::start() {
  auto servant = std::make_unique<Servant>();
  int ends[2];
  if (::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) != 0)
    return fail("socketpair", "for the servant");
  servant->channel_ = Fd(ends[0]);
  const Fd theirs(ends[1]);
  const pid_t pid = ::fork();
  if (pid < 0) return fail("fork", "the servant");
  if (pid == 0) {
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    serve(theirs.get());
  }
  servant->source.child = Child(pid);
  servant->source.child.go();
  servant->source.heap_start = static_cast<uint64_t>(servant->call(SYS_brk, {0}) + 4095) / 4096 * 4096;
  const int64_t number = servant->call(SYS_userfaultfd, {O_CLOEXEC | O_NONBLOCK});
  if (number < 0) return fail("userfaultfd", "in the servant", static_cast<int>(-number));
  GODWIT_ASSIGN(servant->source.userfaultfd, take_userfaultfd(pid, static_cast<uint64_t>(number)));
  servant->call(SYS_close, {static_cast<uint64_t>(number)});
  return servant;
}

void Servant::begin(const Order& order) {
  if (::write(channel_.get(), &order, sizeof order) != sizeof order) end_with("tell the servant");
}

int64_t Servant::tell(const Order& order) {
  begin(order);
  int64_t result = 0;
  if (::read(channel_.get(), &result, sizeof result) != sizeof result) end_with("hear the servant");
  return result;
}

int64_t Servant::call(long number, std::initializer_list<uint64_t> arguments) {
  Order order{.kind = Order::kCall, .arguments = {static_cast<uint64_t>(number)}};
  std::copy(arguments.begin(), arguments.end(), order.arguments + 1);
  return tell(order);
}

void Servant::store(uint64_t address, uint64_t count, char value, uint64_t step) {
  tell({.kind = Order::kStore, .arguments = {address, count, static_cast<uint64_t>(value), step}});
}

void Servant::load(uint64_t address, uint64_t count) {
  tell({.kind = Order::kLoad, .arguments = {address, count}});
}

void Servant::store_in_child(uint64_t address, uint64_t count, char value) {
  if (tell({.kind = Order::kStoreInChild, .arguments = {address, count, static_cast<uint64_t>(value)}}) != 0)
    end_with("the servant's child");
}

void Servant::begin_threads(uint64_t count) {
  begin({.kind = Order::kThreads, .arguments = {count}});
}

void Servant::begin_regrowing(uint64_t ms) {
  begin({.kind = Order::kRegrow, .arguments = {ms}});
}

void Servant::begin_store(uint64_t address, char value) {
  begin({.kind = Order::kStore, .arguments = {address, 1, static_cast<uint64_t>(value), 1}});
}

void Servant::begin_call(long number, std::initializer_list<uint64_t> arguments) {
  Order order{.kind = Order::kCall, .arguments = {static_cast<uint64_t>(number)}};
  std::copy(arguments.begin(), arguments.end(), order.arguments + 1);
  begin(order);
}

bool Servant::ended(int timeout_ms) {
  pollfd waiting{channel_.get(), POLLIN, 0};
  if (::poll(&waiting, 1, timeout_ms) != 1) return false;
  return ::read(channel_.get(), &outcome_, sizeof outcome_) == sizeof outcome_;
}

}  // namespace godwit::runtime::arena
