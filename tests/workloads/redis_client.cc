// A client of redis that notices everything: one connection that writes and reads back at a fixed rate, and,
// if wanted, a second one that loads the server with pipelined writes.
//
// Requests go out on schedule whether or not answers have come (an open loop, so that a pause of the server
// is seen as it is). Every answer is compared with what this connection's own order of requests makes it.
// Commands are read from stdin, one per line; each is answered by one line of JSON:
//   mark     figures since the last mark (or the start), among them the longest silence between two answers
//   finish   reads back everything that was ever written, prints the totals, and ends
#include <fcntl.h>
#include <fmt/format.h>
#include <hiredis/hiredis.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <atomic>
#include <deque>
#include <iostream>
#include <memory>
#include <mutex>
#include <nlohmann/json.hpp>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "base/clock.h"
#include "base/fd.h"

namespace godwit::workloads {
namespace {

struct Options {
  std::string host = "10.77.0.5";
  int port = 6379;
  double rate = 1000;     // pairs of SET and GET, per second
  uint64_t preload = 0;   // bytes of values, written before anything is measured
  double load = 0;        // requests per second on the second connection
  double reads = 0;       // the part of them that are GETs; the others are SETs
  uint32_t value = 4096;  // bytes of a preloaded value
};

struct Figures {
  uint64_t sent = 0;
  uint64_t answered = 0;
  uint64_t wrong = 0;
  uint64_t longest_silence_us = 0;
  int64_t longest_silence_end_us = 0;  // CLOCK_MONOTONIC
  uint64_t slowest_answer_us = 0;
};

// What one connection has seen since it was last asked. Threads: any; each call takes a moment.
class Meter {
 public:
  void sent() {
    const std::lock_guard lock(mutex_);
    ++figures_.sent;
    ++outstanding_;
  }
  void answered(int64_t sent_us, bool right) {
    const std::lock_guard lock(mutex_);
    const int64_t now_us = monotonic_us();
    end_silence(now_us);
    figures_.slowest_answer_us =
        std::max(figures_.slowest_answer_us, static_cast<uint64_t>(now_us - sent_us));
    ++figures_.answered;
    if (!right) ++figures_.wrong;
    if (outstanding_ > 0) --outstanding_;
  }
  Figures take() {
    const std::lock_guard lock(mutex_);
    // A silence that is still going on counts too.
    if (outstanding_ > 0) end_silence(monotonic_us());
    last_answer_us_ = monotonic_us();
    return std::exchange(figures_, {});
  }

 private:
  void end_silence(int64_t now_us) {
    const auto silence_us = static_cast<uint64_t>(now_us - std::exchange(last_answer_us_, now_us));
    if (silence_us <= figures_.longest_silence_us) return;
    figures_.longest_silence_us = silence_us;
    figures_.longest_silence_end_us = now_us;
  }

  std::mutex mutex_;
  Figures figures_;
  uint64_t outstanding_ = 0;
  int64_t last_answer_us_ = monotonic_us();
};

// A value that names its key and its version and looks like noise otherwise.
std::string make_value(uint64_t key, uint64_t version, uint32_t size) {
  std::string value = fmt::format("{}:{}:", key, version);
  uint64_t state = key * 0x9E3779B97F4A7C15ULL + version * 0xBF58476D1CE4E5B9ULL + 1;
  value.reserve(size + 8);
  while (value.size() < size) {
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    value.append(reinterpret_cast<const char*>(&state), sizeof state);
  }
  value.resize(std::max<size_t>(size, 1));
  return value;
}

// One connection. Requests and expected answers are queued in the same order.
class Connection {
 public:
  Connection(const Options& options, std::string prefix)
      : options_(options), prefix_(std::move(prefix)), reader_(redisReaderCreate(), redisReaderFree) {}

  bool connect() {
    const std::unique_ptr<redisContext, decltype(&redisFree)> context(
        redisConnect(options_.host.c_str(), options_.port), redisFree);
    if (!context || context->err != 0) {
      std::cerr << "redis_client: connect to " << options_.host << ": "
                << (context ? context->errstr : "no memory") << "\n";
      return false;
    }
    socket_ = Fd(::fcntl(context->fd, F_DUPFD_CLOEXEC, 0));
    const int on = 1;
    ::setsockopt(socket_.get(), IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    ::fcntl(socket_.get(), F_SETFL, O_NONBLOCK);
    return true;
  }

  void set(uint64_t key, uint32_t size) {
    const uint64_t version = ++versions_[key];
    sizes_[key] = size;
    command({"SET", name(key), make_value(key, version, size)});
    expected_.push_back({.key = key, .version = 0, .sent_us = monotonic_us()});
  }
  void get(uint64_t key) {
    command({"GET", name(key)});
    expected_.push_back({.key = key, .version = versions_[key], .sent_us = monotonic_us()});
  }
  void reserve(uint64_t keys) {
    versions_.assign(keys, 0);
    sizes_.assign(keys, 0);
  }
  [[nodiscard]] uint64_t keys() const { return versions_.size(); }
  [[nodiscard]] bool written(uint64_t key) const { return versions_[key] != 0; }

  // Sends what is queued and takes what has come, for at most `timeout_us`. False: the connection is lost.
  bool exchange(int64_t timeout_us) {
    if (!flush()) return false;
    pollfd entry{.fd = socket_.get(), .events = POLLIN, .revents = 0};
    if (!output_.empty()) entry.events |= POLLOUT;
    const timespec timeout{.tv_sec = timeout_us / 1'000'000, .tv_nsec = timeout_us % 1'000'000 * 1000};
    if (::ppoll(&entry, 1, &timeout, nullptr) <= 0) return true;
    return receive();
  }
  bool drain(int64_t patience_us) {
    const int64_t end_us = monotonic_us() + patience_us;
    while (!expected_.empty() && monotonic_us() < end_us)
      if (!exchange(10'000)) return false;
    return expected_.empty();
  }
  [[nodiscard]] size_t outstanding() const { return expected_.size(); }

  // The only part that other threads may call.
  Figures take_figures() { return meter_.take(); }

 private:
  struct Expected {
    uint64_t key;
    uint64_t version;  // 0: of a SET, "OK"
    int64_t sent_us;
  };

  std::string name(uint64_t key) const { return prefix_ + std::to_string(key); }

  void command(const std::vector<std::string>& words) {
    output_ += fmt::format("*{}\r\n", words.size());
    for (const std::string& word : words) output_ += fmt::format("${}\r\n", word.size()) + word + "\r\n";
    meter_.sent();
  }

  bool flush() {
    while (!output_.empty()) {
      const ssize_t sent =
          ::send(socket_.get(), output_.data() + written_, output_.size() - written_, MSG_NOSIGNAL);
      if (sent < 0) return errno == EAGAIN || errno == EINTR;
      written_ += static_cast<size_t>(sent);
      if (written_ < output_.size()) continue;
      output_.clear();
      written_ = 0;
    }
    return true;
  }

  bool receive() {
    char bytes[65536];
    for (;;) {
      const ssize_t got = ::recv(socket_.get(), bytes, sizeof bytes, 0);
      if (got == 0) return false;
      if (got < 0) return errno == EAGAIN || errno == EINTR;
      if (redisReaderFeed(reader_.get(), bytes, static_cast<size_t>(got)) != REDIS_OK) return false;
      void* reply = nullptr;
      while (redisReaderGetReply(reader_.get(), &reply) == REDIS_OK && reply != nullptr) {
        check(*static_cast<redisReply*>(reply));
        freeReplyObject(reply);
        reply = nullptr;
      }
    }
  }

  void check(const redisReply& reply) {
    if (expected_.empty()) return meter_.answered(monotonic_us(), false);
    const Expected expected = expected_.front();
    expected_.pop_front();
    meter_.answered(expected.sent_us, matches(reply, expected));
  }

  bool matches(const redisReply& reply, const Expected& expected) const {
    const std::string_view text(reply.str == nullptr ? "" : reply.str, reply.len);
    if (expected.version == 0 && reply.type == REDIS_REPLY_STATUS) return text == "OK";
    if (expected.version == 0) return reply.type == REDIS_REPLY_NIL;
    return reply.type == REDIS_REPLY_STRING &&
           text == make_value(expected.key, expected.version, sizes_[expected.key]);
  }

  const Options& options_;
  const std::string prefix_;
  Fd socket_;
  std::unique_ptr<redisReader, decltype(&redisReaderFree)> reader_;
  std::string output_;
  size_t written_ = 0;
  std::deque<Expected> expected_;
  std::vector<uint64_t> versions_;
  std::vector<uint32_t> sizes_;
  Meter meter_;
};

bool preload(Connection& connection, const Options& options) {
  constexpr size_t kWindow = 256;
  for (uint64_t key = 0; key < connection.keys(); ++key) {
    connection.set(key, options.value);
    while (connection.outstanding() >= kWindow)
      if (!connection.exchange(10'000)) return false;
  }
  return connection.drain(30'000'000);
}

bool read_back(Connection& connection) {
  constexpr size_t kWindow = 256;
  for (uint64_t key = 0; key < connection.keys(); ++key) {
    if (!connection.written(key)) continue;
    connection.get(key);
    while (connection.outstanding() >= kWindow)
      if (!connection.exchange(10'000)) return false;
  }
  return connection.drain(30'000'000);
}

nlohmann::json to_json(const Figures& figures) {
  return {{"sent", figures.sent},
          {"answered", figures.answered},
          {"wrong", figures.wrong},
          {"gap_us", figures.longest_silence_us},
          {"gap_end_us", figures.longest_silence_end_us},
          {"slowest_us", figures.slowest_answer_us}};
}

void add(Figures& total, const Figures& part) {
  total.sent += part.sent;
  total.answered += part.answered;
  total.wrong += part.wrong;
  total.longest_silence_us = std::max(total.longest_silence_us, part.longest_silence_us);
  total.slowest_answer_us = std::max(total.slowest_answer_us, part.slowest_answer_us);
}

// Runs requests at a rate until told to stop.
class Pacer {
 public:
  Pacer(double per_second) : interval_us_(per_second > 0 ? 1e6 / per_second : 0), next_us_(monotonic_us()) {}
  // How many are due now. What a stall has held up is not made up for beyond a burst.
  uint64_t due() {
    if (interval_us_ <= 0) return 0;
    uint64_t count = 0;
    const double now_us = static_cast<double>(monotonic_us());
    for (; next_us_ <= now_us && count < kBurst; next_us_ += interval_us_) ++count;
    return count;
  }
  [[nodiscard]] int64_t wait_us() const {
    if (interval_us_ <= 0) return 10'000;
    return std::clamp<int64_t>(static_cast<int64_t>(next_us_) - monotonic_us(), 0, 10'000);
  }

 private:
  static constexpr uint64_t kBurst = 64;
  double interval_us_;
  double next_us_;
};

class Client {
 public:
  explicit Client(const Options& options)
      : options_(options), checked_(options, "checked:"), bulk_(options, "bulk:"), random_(42) {
    checked_.reserve(10'000);
    bulk_.reserve(std::max<uint64_t>(options.preload / options.value, options.load > 0 ? 10'000 : 0));
  }

  int run() {
    if (!checked_.connect() || !bulk_.connect()) return 1;
    if (!preload(bulk_, options_)) return lost("while it was being filled");
    add(total_bulk_, bulk_.take_figures());
    (void)checked_.take_figures();
    std::cout << nlohmann::json{{"ready", true}}.dump() << std::endl;
    loader_ = std::thread([this] { load(); });
    const int status = serve();
    stop_loading();
    return status;
  }

 private:
  int lost(const std::string& when) {
    std::cout << nlohmann::json{{"lost", 1}, {"error", "connection lost " + when}}.dump() << std::endl;
    return 1;
  }

  // From here on the second connection is this thread's.
  void stop_loading() {
    loading_ = false;
    if (loader_.joinable()) loader_.join();
  }

  void load() {
    constexpr size_t kWindow = 128;
    Pacer pacer(options_.load);
    std::mt19937_64 random(7);
    std::bernoulli_distribution is_read(options_.reads);
    while (loading_) {
      for (uint64_t due = pacer.due(); due > 0 && bulk_.outstanding() < kWindow; --due) {
        const uint64_t key = random() % bulk_.keys();
        if (is_read(random) && bulk_.written(key))
          bulk_.get(key);
        else
          bulk_.set(key, options_.value);
      }
      if (!bulk_.exchange(pacer.wait_us())) {
        bulk_lost_ = true;
        return;
      }
    }
  }

  int serve() {
    Pacer pacer(options_.rate);
    std::string input;
    for (;;) {
      for (uint64_t due = pacer.due(); due > 0; --due) {
        checked_.set(random_() % checked_.keys(), 100);
        checked_.get(random_() % checked_.keys());
      }
      if (!checked_.exchange(pacer.wait_us()) || bulk_lost_) return lost("under load");
      pollfd entry{.fd = STDIN_FILENO, .events = POLLIN, .revents = 0};
      if (::poll(&entry, 1, 0) <= 0) continue;
      std::string line;
      if (!std::getline(std::cin, line)) return 0;
      if (line == "mark") mark();
      if (line == "finish") return finish();
    }
  }

  void mark() {
    const Figures figures = checked_.take_figures();
    const Figures bulk = bulk_.take_figures();
    add(total_checked_, figures);
    add(total_bulk_, bulk);
    const int64_t now_us = monotonic_us();
    nlohmann::json line = to_json(figures);
    line["elapsed_us"] = now_us - std::exchange(marked_us_, now_us);
    line["bulk"] = to_json(bulk);
    std::cout << line.dump() << std::endl;
  }

  int finish() {
    stop_loading();
    if (!checked_.drain(30'000'000) || !read_back(checked_)) return lost("while its data was read back");
    if (!bulk_.drain(30'000'000) || !read_back(bulk_)) return lost("while its data was read back");
    add(total_checked_, checked_.take_figures());
    add(total_bulk_, bulk_.take_figures());
    Figures total = total_checked_;
    add(total, total_bulk_);
    nlohmann::json line = to_json(total);
    line["gap_us"] = total_checked_.longest_silence_us;
    line["lost"] = total.sent - total.answered;
    line["reconnects"] = 0;  // a lost connection ends this client with an error instead
    std::cout << line.dump() << std::endl;
    return total.wrong == 0 && total.sent == total.answered ? 0 : 1;
  }

  const Options options_;
  Connection checked_;
  Connection bulk_;  // the loader's, while it runs
  std::thread loader_;
  std::mt19937_64 random_;
  std::atomic<bool> loading_ = true;
  std::atomic<bool> bulk_lost_ = false;
  Figures total_checked_;
  Figures total_bulk_;
  int64_t marked_us_ = monotonic_us();
};

}  // namespace
}  // namespace godwit::workloads

int main(int argc, char** argv) {
  godwit::workloads::Options options;
  CLI::App app("Writes to a redis server, reads back, and notices everything");
  app.add_option("--host", options.host);
  app.add_option("--port", options.port);
  app.add_option("--rate", options.rate, "pairs of SET and GET per second");
  app.add_option("--preload", options.preload, "bytes of values written first");
  app.add_option("--load", options.load, "pipelined requests per second on a second connection");
  app.add_option("--reads", options.reads, "the part of these that only read")->check(CLI::Range(0.0, 1.0));
  app.add_option("--value", options.value, "bytes of a preloaded value");
  CLI11_PARSE(app, argc, argv);
  return godwit::workloads::Client(options).run();
}
