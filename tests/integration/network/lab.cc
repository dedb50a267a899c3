#include "tests/integration/network/lab.h"

#include <arpa/inet.h>
#include <fmt/format.h>
#include <linux/if_packet.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <cstdlib>
#include <cstring>
#include <filesystem>

#include "runtime/network/namespace.h"
#include "runtime/network/netlink.h"

namespace godwit::runtime {
namespace {

sockaddr_in container_socket_address(const char* host) {
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(kPort);
  ::inet_pton(AF_INET, host, &address.sin_addr);
  return address;
}

int hosts(const std::string& command, const std::string& name) {
  return std::system(fmt::format("{} {} --name {} >/dev/null", GODWIT_LAB_HOSTS, command, name).c_str());
}

}  // namespace

void Lab::SetUp() {
  if (::geteuid() != 0) GTEST_SKIP() << "needs root";
  name_ = fmt::format("gwnet{}", ::getpid());
  directory_ = "/run/" + name_;
  ASSERT_EQ(hosts("up", name_), 0);
  std::filesystem::create_directory(directory_);
}

void Lab::TearDown() {
  if (name_.empty()) return;
  for (const char* host : {"a", "b"})
    if (auto gone = detach(host); !gone) ADD_FAILURE() << gone.error().to_string();
  for (const char* host : {"a", "b"})
    EXPECT_EQ(interfaces(host), (std::set<std::string>{"lo", "godwit0", "uplink"})) << "left at " << host;
  EXPECT_EQ(hosts("down", name_), 0);
  for (const char* host : {"a", "b"}) std::filesystem::remove(directory_ + "/" + host);
  // Fails, as it should, if anything is left in it.
  EXPECT_TRUE(std::filesystem::remove(directory_));
}

Result<void> Lab::on(const std::string& host, const std::function<Result<void>()>& work) const {
  return run_in_network_namespace(place(host), work);
}

NetworkSpec Lab::spec(const std::string& address) const {
  return {.container_id = "box", .address = address, .mac = "", .bridge = "godwit0", .gateway = ""};
}

Result<Attachment> Lab::attach(const std::string& host, bool held) {
  Result<Attachment> attachment;
  const int64_t start_us = monotonic_us();
  GODWIT_TRY(on(host, [&]() -> Result<void> {
    attachment = Network(directory_ + "/" + host).attach(spec(), held);
    return {};
  }));
  fmt::print("attach: {} us\n", monotonic_us() - start_us);
  return attachment;
}

Result<void> Lab::detach(const std::string& host) {
  return on(host, [&] { return Network(directory_ + "/" + host).detach(spec()); });
}

std::set<std::string> Lab::interfaces(const std::string& host) const {
  std::set<std::string> names;
  (void)on(host, [&]() -> Result<void> {
    struct if_nameindex* const list = ::if_nameindex();
    for (const struct if_nameindex* entry = list; entry != nullptr && entry->if_index != 0; ++entry)
      names.insert(entry->if_name);
    ::if_freenameindex(list);
    return {};
  });
  return names;
}

Result<Fd> Lab::receiver(const std::string& path) const {
  Fd socket;
  GODWIT_TRY(run_in_network_namespace(path, [&]() -> Result<void> {
    socket = Fd(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
    const int bytes = 32 << 20;
    ::setsockopt(socket.get(), SOL_SOCKET, SO_RCVBUFFORCE, &bytes, sizeof bytes);
    const sockaddr_in address = container_socket_address("0.0.0.0");
    if (::bind(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0)
      return fail("bind", "a receiver");
    return {};
  }));
  return socket;
}

NumberedStream::NumberedStream(const std::string& network_namespace)
    : thread_([this, network_namespace] { run(network_namespace); }) {}

void NumberedStream::wait_for_more(uint32_t count) const {
  const uint32_t wanted = sent_ + count;
  const int64_t end_ns = monotonic_ns() + 10'000'000'000;
  while (sent_ < wanted && monotonic_ns() < end_ns) sleep_ms(1);
}

uint32_t NumberedStream::stop() {
  stop_ = true;
  if (thread_.joinable()) thread_.join();
  return sent_;
}

void NumberedStream::run(const std::string& network_namespace) {
  auto sent = run_in_network_namespace(network_namespace, [&]() -> Result<void> {
    const Fd socket(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
    const sockaddr_in address = container_socket_address(kContainerAddress);
    if (::connect(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0)
      return fail("connect", "the sender");
    int64_t next_ns = monotonic_ns();
    std::array<uint32_t, 50> datagram{};
    while (!stop_) {
      datagram[0] = sent_;
      if (::send(socket.get(), datagram.data(), sizeof datagram, 0) < 0) return fail("send", "a datagram");
      ++sent_;
      // The first one waits for address resolution, whose queue is short.
      next_ns = sent_ == 1 ? monotonic_ns() + 20'000'000 : next_ns + 50'000;
      timespec until{.tv_sec = next_ns / 1'000'000'000, .tv_nsec = next_ns % 1'000'000'000};
      ::clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, nullptr);
    }
    return {};
  });
  EXPECT_TRUE(sent.has_value()) << sent.error().to_string();
}

void receive_numbers(const Fd& socket, int quiet_ms, std::vector<uint32_t>& numbers, int64_t most_ms) {
  pollfd wait{.fd = socket.get(), .events = POLLIN, .revents = 0};
  const int64_t end_ns = monotonic_ns() + most_ms * 1'000'000;
  while (monotonic_ns() < end_ns && ::poll(&wait, 1, quiet_ms) > 0) {
    std::array<uint32_t, 50> datagram{};
    if (::recv(socket.get(), datagram.data(), sizeof datagram, 0) == sizeof datagram)
      numbers.push_back(datagram[0]);
  }
}

Result<TcpPair> connect_tcp(const std::string& server_namespace, const std::string& client_namespace) {
  TcpPair pair;
  Fd listener;
  const sockaddr_in address = container_socket_address(kContainerAddress);
  GODWIT_TRY(run_in_network_namespace(server_namespace, [&]() -> Result<void> {
    listener = Fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    if (::bind(listener.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0 ||
        ::listen(listener.get(), 1) != 0)
      return fail("listen", "in the container");
    return {};
  }));
  GODWIT_TRY(run_in_network_namespace(client_namespace, [&]() -> Result<void> {
    pair.client = Fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    if (::connect(pair.client.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0)
      return fail("connect", "to the container");
    return {};
  }));
  pair.server = Fd(::accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC));
  if (!pair.server.valid()) return fail("accept", "in the container");
  return pair;
}

Result<Sniffer> Sniffer::open(const std::string& interface) {
  Sniffer sniffer;
  sniffer.socket_ = Fd(::socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, htons(ETH_P_ALL)));
  GODWIT_ASSIGN(const uint32_t index, interface_index(interface));
  sockaddr_ll address{};
  address.sll_family = AF_PACKET;
  address.sll_protocol = htons(ETH_P_ALL);
  address.sll_ifindex = static_cast<int>(index);
  if (::bind(sniffer.socket_.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0)
    return fail("sniff", interface);
  return sniffer;
}

uint32_t Sniffer::count_from(const MacAddress& mac) {
  uint32_t count = 0;
  std::array<uint8_t, 2048> frame{};
  while (::recv(socket_.get(), frame.data(), frame.size(), 0) > 0)
    if (std::memcmp(frame.data() + 6, mac.data(), mac.size()) == 0) ++count;
  return count;
}

void sleep_ms(int64_t ms) {
  std::this_thread::sleep_for(std::chrono::milliseconds(ms));
}

}  // namespace godwit::runtime
