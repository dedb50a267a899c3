// Two hosts and a client (tests/lab/hosts), and traffic between them.
#pragma once

#include <gtest/gtest.h>

#include <atomic>
#include <functional>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "base/clock.h"
#include "base/fd.h"
#include "base/result.h"
#include "runtime/network/address.h"
#include "runtime/network/network.h"

namespace godwit::runtime {

#define ASSERT_OK(...)                                                   \
  do {                                                                   \
    auto&& ok_result = (__VA_ARGS__);                                    \
    ASSERT_TRUE(ok_result.has_value()) << ok_result.error().to_string(); \
  } while (false)

inline constexpr const char* kContainerAddress = "10.77.0.50";
inline constexpr uint16_t kPort = 7000;

class Lab : public ::testing::Test {
 protected:
  void SetUp() override;
  void TearDown() override;

  [[nodiscard]] std::string place(const std::string& host) const {
    return "/run/netns/" + name_ + "-" + host;
  }
  // Runs `work` in the network namespace of "a", "b", "client" or "switch".
  Result<void> on(const std::string& host, const std::function<Result<void>()>& work) const;
  [[nodiscard]] NetworkSpec spec(const std::string& address = std::string(kContainerAddress) + "/24") const;
  Result<Attachment> attach(const std::string& host, bool held);
  Result<void> detach(const std::string& host);
  [[nodiscard]] std::set<std::string> interfaces(const std::string& host) const;
  // A UDP socket in the namespace at `path`, bound to kPort, with a large buffer.
  Result<Fd> receiver(const std::string& path) const;

  std::string name_;
  std::string directory_;
};

// Numbered datagrams from the client to the container, one each 50 us, until stop().
class NumberedStream {
 public:
  explicit NumberedStream(const std::string& network_namespace);
  ~NumberedStream() { stop(); }
  NumberedStream(const NumberedStream&) = delete;
  NumberedStream& operator=(const NumberedStream&) = delete;
  // Waits until `count` more were sent, for ten seconds at most: a busy machine sends late.
  void wait_for_more(uint32_t count) const;
  // How many were sent.
  uint32_t stop();

 private:
  void run(const std::string& network_namespace);
  std::atomic<bool> stop_ = false;
  std::atomic<uint32_t> sent_ = 0;
  std::thread thread_;
};

// Appends the numbers that wait in the socket, and goes on until nothing came for `quiet_ms`, but no longer
// than `most_ms`: while a stream goes on, they never end.
void receive_numbers(const Fd& socket, int quiet_ms, std::vector<uint32_t>& numbers,
                     int64_t most_ms = 10'000);

struct TcpPair {
  Fd server;
  Fd client;
};

// A connection from the client to port kPort of the container.
Result<TcpPair> connect_tcp(const std::string& server_namespace, const std::string& client_namespace);

// Counts frames whose source address is `mac` on an interface, both ways.
class Sniffer {
 public:
  static Result<Sniffer> open(const std::string& interface);
  uint32_t count_from(const MacAddress& mac);

 private:
  Fd socket_;
};

void sleep_ms(int64_t ms);

}  // namespace godwit::runtime
