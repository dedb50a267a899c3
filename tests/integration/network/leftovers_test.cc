#include "runtime/network/leftovers.h"

#include <fcntl.h>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <numeric>

#include "runtime/network/bpf.h"
#include "runtime/network/namespace.h"
#include "runtime/network/parking.h"
#include "tests/integration/network/lab.h"

namespace godwit::runtime {
namespace {

// How far a worker comes before it is killed.
enum class Step { kPrepared, kParked, kSealed };

Result<tcp_info> info_of(const Fd& socket) {
  tcp_info info{};
  socklen_t size = sizeof info;
  if (::getsockopt(socket.get(), IPPROTO_TCP, TCP_INFO, &info, &size) != 0)
    return fail("ask the kernel for", "TCP_INFO");
  return info;
}

// Counted words over one connection into the container, as fast as it takes them, until stop().
class TcpStream {
 public:
  explicit TcpStream(const TcpPair& pair)
      : pair_(pair), sender_([this] { send(pair_.client); }), reader_([this] { read(pair_.server); }) {}
  ~TcpStream() {
    ::shutdown(pair_.client.get(), SHUT_RDWR);
    ::shutdown(pair_.server.get(), SHUT_RDWR);
    stop();
  }
  TcpStream(const TcpStream&) = delete;
  TcpStream& operator=(const TcpStream&) = delete;
  // For a minute at most: what was kept out is sent again when the client's timer says so.
  void wait_for_more() const {
    const size_t wanted = received_ + kBlock;
    const int64_t end_ns = monotonic_ns() + 60'000'000'000;
    while (received_ < wanted && monotonic_ns() < end_ns) sleep_ms(1);
    EXPECT_GE(received_, wanted);
  }
  void stop() {
    stop_ = true;
    if (sender_.joinable()) sender_.join();
    if (reader_.joinable()) reader_.join();
  }
  [[nodiscard]] size_t sent() const { return sent_; }
  [[nodiscard]] size_t received() const { return received_; }
  [[nodiscard]] size_t wrong() const { return wrong_; }

 private:
  static constexpr size_t kBlock = 1024;
  void send(const Fd& socket) {
    std::array<uint64_t, kBlock> block{};
    while (!stop_) {
      std::iota(block.begin(), block.end(), sent_.load());
      for (size_t done = 0; done < sizeof block;) {
        const ssize_t count = ::send(socket.get(), reinterpret_cast<char*>(block.data()) + done,
                                     sizeof block - done, MSG_NOSIGNAL);
        if (count <= 0) return;
        done += static_cast<size_t>(count);
      }
      sent_ += block.size();
    }
    ::shutdown(socket.get(), SHUT_WR);
  }
  void read(const Fd& socket) {
    std::array<uint64_t, kBlock> block{};
    ssize_t count = 0;
    while ((count = ::recv(socket.get(), block.data(), sizeof block, MSG_WAITALL)) > 0) {
      for (size_t i = 0; i < static_cast<size_t>(count) / sizeof block[0]; ++i)
        if (block[i] != received_++) ++wrong_;
    }
  }

  const TcpPair& pair_;
  std::atomic<bool> stop_ = false;
  std::atomic<size_t> sent_ = 0;
  std::atomic<size_t> received_ = 0;
  std::atomic<size_t> wrong_ = 0;
  std::thread sender_;
  std::thread reader_;
};

class Leftovers : public Lab, public ::testing::WithParamInterface<IngressMethod> {
 protected:
  void SetUp() override {
    if (GetParam() == IngressMethod::kTcx && !has_tcx()) GTEST_SKIP() << "this kernel has no tcx";
    Lab::SetUp();
    attachment_ = attach("a", false);
    ASSERT_OK(attachment_);
  }
  // A process of its own goes up to `step` and stays there until it is killed.
  [[nodiscard]] pid_t start_worker(Step step) const;
  static void kill_worker(pid_t worker) {
    ASSERT_GT(worker, 0);
    ASSERT_EQ(::kill(worker, SIGKILL), 0);
    int status = 0;
    ASSERT_EQ(::waitpid(worker, &status, 0), worker);
    ASSERT_TRUE(WIFSIGNALED(status));
  }
  void kill_a_worker_at(Step step) const { kill_worker(start_worker(step)); }
  Result<TcpPair> connect() { return connect_tcp(attachment_->network_namespace, place("client")); }
  // What arrives of two hundred and more datagrams, and how many were sent.
  uint32_t datagrams(const Fd& socket, std::vector<uint32_t>& numbers) const {
    NumberedStream stream(place("client"));
    stream.wait_for_more(200);
    const uint32_t sent = stream.stop();
    numbers.clear();
    receive_numbers(socket, 50, numbers);
    return sent;
  }
  void expect_open(const Fd& socket) const {
    std::vector<uint32_t> numbers;
    const uint32_t sent = datagrams(socket, numbers);
    EXPECT_EQ(numbers.size(), sent);
  }
  void expect_closed(const Fd& socket) const {
    std::vector<uint32_t> numbers;
    EXPECT_GT(datagrams(socket, numbers), 0U);
    EXPECT_TRUE(numbers.empty());
  }
  // For a second and until the client has sent once more: the container's kernel hears nothing of it, and
  // acknowledges no more than it had received when its worker died.
  static void expect_silence(const TcpPair& pair) {
    const auto server = info_of(pair.server);
    const auto client = info_of(pair.client);
    ASSERT_OK(server);
    ASSERT_OK(client);
    sleep_ms(1000);
    auto client_later = info_of(pair.client);
    const int64_t end_ns = monotonic_ns() + 30'000'000'000;
    while (client_later && client_later->tcpi_segs_out == client->tcpi_segs_out && monotonic_ns() < end_ns) {
      sleep_ms(10);
      client_later = info_of(pair.client);
    }
    ASSERT_OK(client_later);
    EXPECT_GT(client_later->tcpi_segs_out, client->tcpi_segs_out) << "nothing was sent";
    const auto server_later = info_of(pair.server);
    ASSERT_OK(server_later);
    EXPECT_EQ(server_later->tcpi_segs_in, server->tcpi_segs_in);
    EXPECT_EQ(server_later->tcpi_bytes_received, server->tcpi_bytes_received);
    // The client's SYN counts as one.
    EXPECT_LE(client_later->tcpi_bytes_acked, server->tcpi_bytes_received + 1);
  }
  static void expect_all(TcpStream& stream) {
    stream.wait_for_more();
    stream.stop();
    EXPECT_EQ(stream.received(), stream.sent());
    EXPECT_EQ(stream.wrong(), 0U);
  }
  Result<void> unpark() {
    return on("a", [&] { return unpark_leftovers(*attachment_); });
  }
  Result<void> hold() {
    return on("a", [&] { return hold_leftovers(*attachment_); });
  }

  Result<Attachment> attachment_;
};

pid_t Leftovers::start_worker(Step step) const {
  std::array<int, 2> ends{};
  if (::pipe2(ends.data(), O_CLOEXEC) != 0) return -1;
  const Fd hear(ends[0]);
  Fd tell(ends[1]);
  const pid_t child = ::fork();
  if (child == 0) {
    (void)on("a", [&]() -> Result<void> {
      auto lot = ParkingLot::prepare(*attachment_, GetParam());
      if (!lot) ::_exit(1);
      if (step >= Step::kParked && !(*lot)->park()) ::_exit(1);
      if (step >= Step::kSealed && !(*lot)->seal()) ::_exit(1);
      (void)!::write(tell.get(), "x", 1);
      for (;;) ::pause();
    });
    ::_exit(2);
  }
  tell.reset();
  char there = 0;
  if (::read(hear.get(), &there, 1) == 1) return child;
  ::waitpid(child, nullptr, 0);
  return -1;
}

TEST_P(Leftovers, OfAParkedWorkerKeepEverythingOutUntilTheyAreUnparked) {
  auto pair = connect();
  ASSERT_OK(pair);
  TcpStream stream(*pair);
  stream.wait_for_more();
  const pid_t worker = start_worker(Step::kParked);
  ASSERT_GT(worker, 0);
  const auto parked = info_of(pair->server);
  kill_worker(worker);
  const auto dead = info_of(pair->server);
  ASSERT_OK(parked);
  ASSERT_OK(dead);
  EXPECT_EQ(dead->tcpi_segs_in, parked->tcpi_segs_in);
  expect_silence(*pair);
  ASSERT_OK(unpark());
  ASSERT_OK(unpark());
  expect_all(stream);
}

// The other host says that it never will run the container: it goes on here after all.
TEST_P(Leftovers, OfASealedWorkerThatWereHeldAreUnparkedToo) {
  auto pair = connect();
  ASSERT_OK(pair);
  TcpStream stream(*pair);
  stream.wait_for_more();
  kill_a_worker_at(Step::kSealed);
  expect_silence(*pair);
  ASSERT_OK(hold());
  expect_silence(*pair);
  ASSERT_OK(unpark());
  expect_all(stream);
}

TEST_P(Leftovers, OfASealedWorkerLeaveTheAddressToAnotherHost) {
  auto pair = connect();
  ASSERT_OK(pair);
  kill_a_worker_at(Step::kSealed);
  constexpr std::string_view kWords = "more than nothing";
  ASSERT_EQ(::send(pair->client.get(), kWords.data(), kWords.size(), 0), std::ssize(kWords));
  ASSERT_EQ(::send(pair->server.get(), kWords.data(), kWords.size(), 0), std::ssize(kWords));
  const auto expect_nothing_left = [&] {
    std::array<char, 64> buffer{};
    EXPECT_EQ(::recv(pair->client.get(), buffer.data(), buffer.size(), MSG_DONTWAIT), -1);
    EXPECT_EQ(errno, EAGAIN);
  };
  expect_silence(*pair);
  expect_nothing_left();
  ASSERT_OK(hold());
  ASSERT_OK(hold());
  expect_silence(*pair);
  expect_nothing_left();
  const auto held = info_of(pair->server);
  ASSERT_OK(held);
  EXPECT_GT(held->tcpi_total_retrans, 0U) << "the container's kernel said nothing";

  const auto elsewhere = attach("b", true);
  ASSERT_OK(elsewhere);
  auto there = receiver(elsewhere->network_namespace);
  auto here = receiver(attachment_->network_namespace);
  ASSERT_OK(there);
  ASSERT_OK(here);
  ASSERT_OK(on("b", [&]() -> Result<void> {
    GODWIT_ASSIGN(Port port, Port::prepare(*elsewhere));
    return port.open();
  }));
  ASSERT_OK(announce(*elsewhere));
  expect_open(*there);
  std::vector<uint32_t> numbers;
  receive_numbers(*here, 0, numbers);
  EXPECT_TRUE(numbers.empty());
  const auto end = info_of(pair->server);
  ASSERT_OK(end);
  EXPECT_EQ(end->tcpi_segs_in, held->tcpi_segs_in);
}

TEST_P(Leftovers, OfAWorkerThatHadNotParkedAreInNobodysWay) {
  auto socket = receiver(attachment_->network_namespace);
  ASSERT_OK(socket);
  kill_a_worker_at(Step::kPrepared);
  expect_open(*socket);
  // The next worker may attach by the other method; it takes the place of both.
  std::unique_ptr<ParkingLot> lot;
  ASSERT_OK(on("a", [&]() -> Result<void> {
    GODWIT_ASSIGN(lot, ParkingLot::prepare(*attachment_));
    return lot->park();
  }));
  expect_closed(*socket);
  ASSERT_OK(on("a", [&] { return lot->unpark({}); }));
  lot.reset();
  std::vector<uint32_t> numbers;
  receive_numbers(*socket, 50, numbers);
  expect_open(*socket);
}

TEST_P(Leftovers, OfASealedLotStayWhenItEndsWithoutADeath) {
  auto socket = receiver(attachment_->network_namespace);
  ASSERT_OK(socket);
  expect_open(*socket);
  ASSERT_OK(on("a", [&]() -> Result<void> {
    GODWIT_ASSIGN(const auto lot, ParkingLot::prepare(*attachment_, GetParam()));
    GODWIT_TRY(lot->park());
    return lot->seal();
  }));
  expect_closed(*socket);
  ASSERT_OK(unpark());
  expect_open(*socket);
}

TEST_P(Leftovers, WhereThereAreNoneNothingIsUndone) {
  auto socket = receiver(attachment_->network_namespace);
  ASSERT_OK(socket);
  ASSERT_OK(unpark());
  expect_open(*socket);
  ASSERT_OK(hold());
  expect_closed(*socket);
  ASSERT_OK(unpark());
  expect_open(*socket);
  ASSERT_OK(detach("a"));
  EXPECT_FALSE(unpark().has_value()) << "the port of no interface was opened";
  ASSERT_OK(hold());
}

INSTANTIATE_TEST_SUITE_P(EachMethod, Leftovers,
                         ::testing::Values(IngressMethod::kTcx, IngressMethod::kClassic),
                         [](const auto& info) {
                           return info.param == IngressMethod::kTcx ? "Tcx" : "Classic";
                         });

}  // namespace
}  // namespace godwit::runtime
