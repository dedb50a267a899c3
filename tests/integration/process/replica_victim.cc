// A program for replica_test: sealed memory, a unix socket with a path, a TCP connection, a thread and a
// child. Arguments: the file for reports, the path of the socket, the TCP port.
#include <arpa/inet.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <string>

#include "tests/integration/process/registers_hold.h"
#include "tests/integration/process/replica_report.h"

namespace {

using godwit::runtime::test::registers_hold;
using godwit::runtime::test::ReplicaReport;

constexpr size_t kSize = 8192;
constexpr char kText[] = "sealed text";
constexpr int kSeals = F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL;

std::atomic<uint64_t> thread_rounds, thread_failures, urgent;
std::atomic<uint64_t>* shared;  // with the child: its rounds, and its failures

char* map(int fd, int protection) {
  void* const at = ::mmap(nullptr, kSize, protection, MAP_SHARED, fd, 0);
  return at == MAP_FAILED ? nullptr : static_cast<char*>(at);
}

int reopen(int fd) {
  return ::open(("/proc/self/fd/" + std::to_string(fd)).c_str(), O_RDONLY | O_CLOEXEC);
}

bool can_be_written(char* mapping) {
  if (::mprotect(mapping, kSize, PROT_READ | PROT_WRITE) != 0) return false;
  ::mprotect(mapping, kSize, PROT_READ);
  return true;
}

// Sealed against all writing and only read; sealed against new writers; not sealed, and only read so far.
struct Memory {
  int sealed = -1, future = -1, plain = -1;
  char *text = nullptr, *text_again = nullptr, *written = nullptr, *read = nullptr, *idle = nullptr;

  bool make() {
    sealed = ::memfd_create("sealed", MFD_ALLOW_SEALING | MFD_CLOEXEC);
    future = ::memfd_create("future", MFD_ALLOW_SEALING | MFD_CLOEXEC);
    plain = ::memfd_create("plain", MFD_CLOEXEC);
    for (const int fd : {sealed, future, plain})
      if (::ftruncate(fd, kSize) != 0) return false;
    if (::write(sealed, kText, sizeof kText) != sizeof kText) return false;
    if (::fcntl(sealed, F_ADD_SEALS, kSeals) != 0) return false;
    text = map(reopen(sealed), PROT_READ);
    text_again = map(sealed, PROT_READ);  // refused by kernels before 6.7
    if (text_again == nullptr) text_again = text;
    written = map(future, PROT_READ | PROT_WRITE);
    if (::fcntl(future, F_ADD_SEALS, F_SEAL_FUTURE_WRITE) != 0) return false;
    read = map(future, PROT_READ);
    idle = map(plain, PROT_READ);
    return text != nullptr && written != nullptr && read != nullptr && idle != nullptr;
  }
  [[nodiscard]] uint64_t look(uint64_t round) const {
    uint64_t wrong = 0;
    if (std::strcmp(text, kText) != 0 || std::strcmp(text_again, kText) != 0) wrong |= 1;
    if (::fcntl(sealed, F_GET_SEALS) != kSeals || ::fcntl(future, F_GET_SEALS) != F_SEAL_FUTURE_WRITE)
      wrong |= 2;
    if (can_be_written(text) || can_be_written(text_again) || can_be_written(read)) wrong |= 4;
    std::memcpy(written, &round, sizeof round);
    if (std::memcmp(read, &round, sizeof round) != 0) wrong |= 8;
    if (!can_be_written(idle)) wrong |= 16;
    return wrong;
  }
};

[[noreturn]] void be_the_child(const Memory& memory) {
  for (;;) {
    if (std::strcmp(memory.text, kText) != 0 || can_be_written(memory.text)) ++shared[1];
    ++shared[0];
    ::usleep(500);
  }
}

void* check_thread(void*) {
  for (uint64_t i = 1;; ++i) {
    if (!registers_hold(i)) ++thread_failures;
    ++thread_rounds;
    ::usleep(300);
  }
}

void* echo_thread(void* argument) {
  const int listener = static_cast<int>(reinterpret_cast<intptr_t>(argument));
  const int connection = ::accept(listener, nullptr, nullptr);
  for (char byte = 0; ::read(connection, &byte, 1) == 1;) {
    byte = static_cast<char>(byte ^ 0x55);
    if (::send(connection, &byte, 1, MSG_NOSIGNAL) != 1) break;
  }
  return nullptr;
}

int listen_tcp(uint16_t port) {
  const int listener = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(port);
  if (::bind(listener, reinterpret_cast<sockaddr*>(&address), sizeof address) != 0) ::_exit(3);
  ::listen(listener, 4);
  return listener;
}

int listen_unix(const char* path) {
  const int listener = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::strncpy(address.sun_path, path, sizeof address.sun_path - 1);
  if (::bind(listener, reinterpret_cast<sockaddr*>(&address), sizeof address) != 0) ::_exit(4);
  ::listen(listener, 4);
  return listener;
}

// Greets whoever comes.
bool serve(int listener, const char* path) {
  sockaddr_un address{};
  socklen_t length = sizeof address;
  if (::getsockname(listener, reinterpret_cast<sockaddr*>(&address), &length) != 0) return false;
  const int guest = ::accept(listener, nullptr, nullptr);
  if (guest >= 0) {
    static_cast<void>(::send(guest, "hi", 2, MSG_NOSIGNAL));
    ::close(guest);
  }
  return std::strcmp(address.sun_path, path) == 0;
}

void start(void* (*body)(void*), intptr_t argument) {
  pthread_t thread{};
  ::pthread_create(&thread, nullptr, body, reinterpret_cast<void*>(argument));
}

}  // namespace

int main(int, char** arguments) {
  const int report_file = ::open(arguments[1], O_RDWR | O_CLOEXEC);
  const char* const path = arguments[2];
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);  // dies with the test
  ::signal(SIGURG, [](int) { ++urgent; });
  shared = static_cast<std::atomic<uint64_t>*>(
      ::mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
  Memory memory;
  if (!memory.make()) return 1;
  if (::fork() == 0) be_the_child(memory);
  const int listener = listen_unix(path);
  start(echo_thread, listen_tcp(static_cast<uint16_t>(std::atoi(arguments[3]))));
  for (int i = 0; i < 2; ++i) start(check_thread, 0);
  ReplicaReport report;
  for (;;) {
    ++report.rounds;
    report.wrong |= memory.look(report.rounds);
    if (!serve(listener, path)) report.wrong |= 32;
    if (thread_failures != 0) report.wrong |= 64;
    if (shared[1] != 0) report.wrong |= 128;
    report.thread_rounds = thread_rounds;
    report.child_rounds = shared[0];
    report.urgent = urgent;
    if (::pwrite(report_file, &report, sizeof report, 0) != sizeof report) return 2;
    ::usleep(1000);
  }
}
