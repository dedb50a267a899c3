// A container that can be counted, and the client that checks it: what tests/matrix judges by.
//
//   counter serve LOG PORT MIB PAGES_PER_SECOND [vfork] [sealed]
//     Appends "NUMBER NAMESPACE MICROSECONDS BYTES" to LOG every 2 ms. NUMBER grows by one: a number twice
//     means that two copies of this program ran. NAMESPACE is the inode of its network namespace, which every
//     host makes anew: it says where the line was written. BYTES have come by all connections so far. Dirties
//     PAGES_PER_SECOND of MIB of memory, and serves PORT. A line that begins with '!' says what this program
//     found wrong.
//       vfork   one more thread is in vfork(2) nearly always
//       sealed  a memfd sealed against writing is mapped read-only
//   counter connect ADDRESS PORT
//     One connection. A line on standard input is answered with one of JSON: bytes, the longest silence since
//     the line before, and why the connection ended, if it did.
//
// A connection carries two streams at once, one each way, that have nothing to do with each other. Byte N of
// a stream is a function of N: whatever is lost, repeated or changed is seen by whoever receives it. No
// standard output in `serve`, nothing shared, no library beyond libc: it runs in an empty root file system.
#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

namespace {

constexpr int64_t kTickUs = 10'000;
constexpr size_t kChunk = 256;
constexpr size_t kConnectionsMax = 16;
constexpr uint64_t kToServer = 0x5eed'0001;
constexpr uint64_t kToClient = 0x5eed'0002;

int64_t now_us(clockid_t clock) {
  timespec now{};
  ::clock_gettime(clock, &now);
  return now.tv_sec * 1'000'000 + now.tv_nsec / 1000;
}

void nap_us(int64_t us) {
  const timespec nap{.tv_sec = us / 1'000'000, .tv_nsec = us % 1'000'000 * 1000};
  ::nanosleep(&nap, nullptr);
}

// splitmix64, by Sebastiano Vigna, in the public domain.
uint64_t mix(uint64_t x) {
  x += 0x9e3779b97f4a7c15;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
  x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
  return x ^ (x >> 31);
}

unsigned char stream_byte(uint64_t stream, uint64_t position) {
  return static_cast<unsigned char>(mix((stream << 32) + position / 8) >> (position % 8 * 8));
}

[[noreturn]] void die(const char* what) {
  std::perror(what);
  std::_Exit(1);
}

// One end of a connection.
struct Connection {
  int socket = -1;
  uint64_t outgoing = 0;  // the stream that this end sends
  uint64_t incoming = 0;
  uint64_t sent = 0;
  uint64_t received = 0;
  std::string ended;  // why it did; empty: it has not

  // As much of one chunk as there is room for.
  void send_chunk() {
    std::array<unsigned char, kChunk> chunk{};
    for (size_t i = 0; i < chunk.size(); ++i) chunk[i] = stream_byte(outgoing, sent + i);
    const ssize_t went = ::send(socket, chunk.data(), chunk.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
    if (went >= 0)
      sent += static_cast<uint64_t>(went);
    else if (errno != EAGAIN && errno != EINTR)
      ended = std::string("send: ") + std::strerror(errno);
  }

  // Everything that has come. Returns how much that was.
  uint64_t receive() {
    const uint64_t before = received;
    std::array<unsigned char, 65536> buffer{};
    for (;;) {
      const ssize_t got = ::recv(socket, buffer.data(), buffer.size(), MSG_DONTWAIT);
      if (got < 0 && (errno == EAGAIN || errno == EINTR)) return received - before;
      if (got == 0) ended = "closed by the other end";
      if (got < 0) ended = std::string("receive: ") + std::strerror(errno);
      if (got <= 0) return received - before;
      for (ssize_t i = 0; i < got; ++i, ++received) {
        const unsigned char wanted = stream_byte(incoming, received);
        if (buffer[static_cast<size_t>(i)] == wanted) continue;
        ended = "wrong: byte " + std::to_string(received) + " is " +
                std::to_string(buffer[static_cast<size_t>(i)]) + ", not " + std::to_string(wanted);
        return received - before;
      }
    }
  }
};

// --- serve ---

int log_file = -1;
std::atomic<uint64_t> bytes_heard = 0;

void write_line(const std::string& line) {
  if (::write(log_file, line.data(), line.size()) != static_cast<ssize_t>(line.size()))
    die("write to the log");
}

void count_for_ever() {
  for (uint64_t number = 1;; ++number) {
    struct stat place {};
    if (::stat("/proc/self/ns/net", &place) != 0) die("/proc/self/ns/net");
    write_line(std::to_string(number) + " " + std::to_string(place.st_ino) + " " +
               std::to_string(now_us(CLOCK_REALTIME)) + " " + std::to_string(bytes_heard.load()) + "\n");
    nap_us(2000);
  }
}

void dirty_for_ever(uint64_t* memory, size_t pages, int64_t rate) {
  constexpr int kAtOnce = 8;
  constexpr size_t kWordsOfPage = 512;
  for (uint64_t step = 0;; ++step) {
    for (uint64_t i = 0; i < kAtOnce; ++i) {
      const uint64_t random = mix(step * kAtOnce + i);
      memory[random % pages * kWordsOfPage] = random;
    }
    nap_us(kAtOnce * 1'000'000 / rate);
  }
}

// Its parent's thread cannot be stopped or frozen while a child of vfork(2) runs. In the child nothing but a
// system call may be made.
void vfork_for_ever() {
  for (;;) {
    const timespec nap{.tv_sec = 0, .tv_nsec = 20'000'000};
    const pid_t child = ::vfork();  // NOLINT(clang-analyzer-security.insecureAPI.vfork): that is the point
    if (child == 0) {
      ::nanosleep(&nap, nullptr);
      ::_exit(0);
    }
    if (child > 0) ::waitpid(child, nullptr, 0);
    nap_us(1000);
  }
}

void map_sealed_memory() {
  constexpr size_t kBytes = 1 << 16;
  const int file = ::memfd_create("sealed", MFD_ALLOW_SEALING | MFD_CLOEXEC);
  if (file < 0 || ::ftruncate(file, kBytes) != 0) die("memfd_create");
  const std::vector<char> text(kBytes, 'g');
  if (::write(file, text.data(), kBytes) != static_cast<ssize_t>(kBytes)) die("write to a memfd");
  if (::fcntl(file, F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW) != 0) die("seal a memfd");
  if (::mmap(nullptr, kBytes, PROT_READ, MAP_SHARED, file, 0) == MAP_FAILED) die("map a sealed memfd");
}

int listen_at(uint16_t port) {
  const int listener = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  const int on = 1;
  ::setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(port);
  if (::bind(listener, reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0 ||
      ::listen(listener, kConnectionsMax) != 0)
    die("listen");
  return listener;
}

void serve_for_ever(int listener) {
  std::vector<Connection> connections;
  std::array<pollfd, kConnectionsMax + 1> entries{};
  for (int64_t next_us = now_us(CLOCK_MONOTONIC);;) {
    entries[0] = {.fd = listener, .events = POLLIN, .revents = 0};
    for (size_t i = 0; i < connections.size(); ++i)
      entries[i + 1] = {.fd = connections[i].socket, .events = POLLIN, .revents = 0};
    const int64_t left_us = next_us - now_us(CLOCK_MONOTONIC);
    ::poll(entries.data(), connections.size() + 1, left_us > 0 ? static_cast<int>(left_us / 1000 + 1) : 0);
    if (entries[0].revents != 0 && connections.size() < kConnectionsMax) {
      const int socket = ::accept4(listener, nullptr, nullptr, SOCK_CLOEXEC);
      if (socket >= 0)
        connections.push_back({.socket = socket, .outgoing = kToClient, .incoming = kToServer, .ended = {}});
    }
    const bool due = now_us(CLOCK_MONOTONIC) >= next_us;
    if (due) next_us = now_us(CLOCK_MONOTONIC) + kTickUs;
    for (Connection& connection : connections) {
      bytes_heard += connection.receive();
      if (due && connection.ended.empty()) connection.send_chunk();
      if (connection.ended.starts_with("wrong")) write_line("! to the server: " + connection.ended + "\n");
      if (!connection.ended.empty()) ::close(connection.socket);
    }
    std::erase_if(connections, [](const Connection& connection) { return !connection.ended.empty(); });
  }
}

int serve(const std::vector<std::string>& words) {
  if (words.size() < 4) return 2;
  log_file = ::open(words[0].c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
  if (log_file < 0) die(words[0].c_str());
  const auto port = static_cast<uint16_t>(std::stoi(words[1]));
  const size_t bytes = std::stoul(words[2]) << 20;
  void* const mapped = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (mapped == MAP_FAILED) die("map memory");
  auto* const memory = static_cast<uint64_t*>(mapped);
  for (size_t i = 0; i < bytes / sizeof *memory; ++i) memory[i] = mix(i);
  const auto wanted = [&](const char* what) {
    return std::find(words.begin() + 4, words.end(), what) != words.end();
  };
  if (wanted("sealed")) map_sealed_memory();
  const int listener = listen_at(port);
  std::thread(count_for_ever).detach();
  std::thread(dirty_for_ever, memory, bytes / 4096, std::stol(words[3])).detach();
  if (wanted("vfork")) std::thread(vfork_for_ever).detach();
  serve_for_ever(listener);
  return 0;
}

// --- connect ---

int open_connection(const std::string& host, uint16_t port) {
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(port);
  if (::inet_pton(AF_INET, host.c_str(), &address.sin_addr) != 1) die(host.c_str());
  for (int attempt = 0; attempt < 100; ++attempt, nap_us(100'000)) {
    const int socket = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (::connect(socket, reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0) {
      // A silence is measured to the second: retransmissions must not back off to minutes (Linux 6.15 and
      // newer), nor end before those who wait here do.
      constexpr int kTcpRtoMaxMs = 44;
      const int most_ms = 1000;
      const unsigned patience_ms = 3'600'000;
      ::setsockopt(socket, IPPROTO_TCP, kTcpRtoMaxMs, &most_ms, sizeof most_ms);
      ::setsockopt(socket, IPPROTO_TCP, TCP_USER_TIMEOUT, &patience_ms, sizeof patience_ms);
      return socket;
    }
    ::close(socket);
  }
  die("connect");
}

void report(const Connection& connection, int64_t silence_us) {
  std::printf(R"({"sent": %llu, "received": %llu, "silence_s": %.3f, "ended": "%s"})"
              "\n",
              static_cast<unsigned long long>(connection.sent),
              static_cast<unsigned long long>(connection.received), static_cast<double>(silence_us) / 1e6,
              connection.ended.c_str());
  std::fflush(stdout);
}

int connect(const std::vector<std::string>& words) {
  if (words.size() != 2) return 2;
  Connection connection{.socket = open_connection(words[0], static_cast<uint16_t>(std::stoi(words[1]))),
                        .outgoing = kToServer,
                        .incoming = kToClient,
                        .ended = {}};
  int64_t heard_us = now_us(CLOCK_MONOTONIC);
  int64_t longest_us = 0;
  for (int64_t next_us = heard_us;;) {
    std::array<pollfd, 2> entries{
        {{.fd = STDIN_FILENO, .events = POLLIN, .revents = 0},
         {.fd = connection.ended.empty() ? connection.socket : -1, .events = POLLIN, .revents = 0}}};
    ::poll(entries.data(), entries.size(), static_cast<int>(kTickUs / 1000));
    const int64_t now = now_us(CLOCK_MONOTONIC);
    if (connection.ended.empty()) {
      longest_us = std::max(longest_us, now - heard_us);
      if (connection.receive() > 0) heard_us = now;
    }
    if (connection.ended.empty() && now >= next_us) {
      connection.send_chunk();
      next_us = now + kTickUs;
    }
    if (entries[0].revents != 0) {
      std::array<char, 256> line{};
      if (::read(STDIN_FILENO, line.data(), line.size()) <= 0) return 0;
      report(connection, longest_us);
      longest_us = 0;
    }
  }
}

}  // namespace

int main(int argc, char** argv) {
  const std::vector<std::string> words(argv + std::min(argc, 2), argv + argc);
  const std::string_view command = argc > 1 ? argv[1] : "";
  int status = 2;
  if (command == "serve") status = serve(words);
  if (command == "connect") status = connect(words);
  if (status == 2)
    std::fputs("usage: counter serve LOG PORT MIB PAGES_PER_SECOND [vfork] [sealed] | connect ADDRESS PORT\n",
               stderr);
  return status;
}
