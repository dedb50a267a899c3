// What the target accepts from another host, and what it does not.
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

#include <functional>

#include "base/fd.h"

#include "runtime/process/descriptors/options.h"
#include "runtime/process/descriptors/target.h"

namespace godwit::runtime {
namespace {

model::Snapshot make_snapshot(const std::function<void(model::FileDescription&)>& fill) {
  model::Snapshot snapshot;
  snapshot.set_frozen(true);
  model::FileDescription& one = *snapshot.add_descriptions();
  one.set_id(1);
  fill(one);
  model::Process& process = *snapshot.add_processes();
  process.set_pid(1);
  model::Descriptor& descriptor = *process.add_descriptors();
  descriptor.set_number(3);
  descriptor.set_description(1);
  return snapshot;
}

bool accepts(const std::function<void(model::FileDescription&)>& fill) {
  return validate_descriptions(make_snapshot(fill)).has_value();
}

bool accepts_unix(const std::function<void(model::UnixSocket&)>& change) {
  return accepts([&](model::FileDescription& one) {
    model::UnixSocket& socket = *one.mutable_unix_socket();
    socket.set_socket(9);
    socket.set_type(SOCK_STREAM);
    socket.set_listening(true);
    socket.set_address("/run/a.sock");
    socket.mutable_bound_file()->set_mode(0600);
    change(socket);
  });
}

bool accepts_udp(const std::function<void(model::UdpSocket&)>& change) {
  return accepts([&](model::FileDescription& one) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = 7;
    model::UdpSocket& socket = *one.mutable_udp();
    socket.set_family(AF_INET);
    socket.set_local_address(&address, sizeof address);
    model::UdpSocket::Datagram& datagram = *socket.add_queue();
    datagram.set_source(&address, sizeof address);
    datagram.set_payload(std::string(65'507, 'x'));
    change(socket);
  });
}

TEST(Descriptions, Datagrams) {
  EXPECT_TRUE(accepts_udp([](auto&) {}));
  EXPECT_FALSE(accepts_udp([](auto& socket) { socket.clear_local_address(); }));
  EXPECT_FALSE(accepts_udp([](auto& socket) { socket.mutable_queue(0)->clear_source(); }));
  EXPECT_FALSE(accepts_udp([](auto& socket) { socket.mutable_queue(0)->mutable_payload()->push_back('x'); }));
}

TEST(Descriptions, UnixListeners) {
  EXPECT_TRUE(accepts_unix([](auto&) {}));
  EXPECT_TRUE(accepts_unix([](auto& socket) { socket.set_address(std::string("\0a\0b", 4)); }));
  EXPECT_FALSE(accepts_unix([](auto& socket) { socket.set_socket(0); }));
  EXPECT_FALSE(accepts_unix([](auto& socket) { socket.set_type(99); }));
  EXPECT_FALSE(accepts_unix([](auto& socket) { socket.set_type(SOCK_DGRAM); }));
  EXPECT_FALSE(accepts_unix([](auto& socket) { socket.clear_address(); }));
  EXPECT_FALSE(accepts_unix([](auto& socket) { socket.set_address(std::string("/a\0b", 4)); }));
  EXPECT_FALSE(accepts_unix([](auto& socket) { socket.set_address("/" + std::string(108, 'a')); }));
  EXPECT_FALSE(accepts_unix([](auto& socket) { socket.clear_bound_file(); }));
  EXPECT_FALSE(accepts_unix([](auto& socket) { socket.mutable_bound_file()->set_mode(010000); }));
  EXPECT_FALSE(accepts_unix([](auto& socket) { socket.mutable_bound_file()->set_uid(~0U); }));
  EXPECT_FALSE(accepts_unix([](auto& socket) { socket.mutable_peer_credentials()->set_gid(~0U); }));
}

TEST(Descriptions, RelativeUnixPathsNeedADirectory) {
  EXPECT_FALSE(accepts_unix([](auto& socket) { socket.set_address("a.sock"); }));
  EXPECT_TRUE(accepts_unix([](auto& socket) {
    socket.set_address("a.sock");
    socket.mutable_bound_file()->set_directory("/run");
  }));
}

TEST(Descriptions, Files) {
  EXPECT_TRUE(accepts([](auto& one) { one.mutable_file()->set_path("/etc/hosts"); }));
  EXPECT_FALSE(accepts([](auto& one) { one.mutable_file()->set_path("etc/hosts"); }));
  EXPECT_FALSE(accepts([](auto& one) { one.mutable_file()->set_path("/" + std::string(5000, 'a')); }));
  EXPECT_FALSE(accepts([](auto& one) {
    one.mutable_file()->set_path("/a");
    one.mutable_file()->set_position(-1);
  }));
  EXPECT_FALSE(accepts([](auto&) {}));  // no kind at all
}

TEST(Descriptions, TablesNameWhatIsThereAndAscend) {
  const auto file = [](auto& one) { one.mutable_file()->set_path("/a"); };
  auto snapshot = make_snapshot(file);
  snapshot.mutable_processes(0)->mutable_descriptors(0)->set_description(2);
  EXPECT_FALSE(validate_descriptions(snapshot));
  snapshot = make_snapshot(file);
  *snapshot.mutable_processes(0)->add_descriptors() = snapshot.processes(0).descriptors(0);
  EXPECT_FALSE(validate_descriptions(snapshot));
  snapshot = make_snapshot(file);
  *snapshot.add_descriptions() = snapshot.descriptions(0);
  EXPECT_FALSE(validate_descriptions(snapshot));
  snapshot = make_snapshot(file);
  snapshot.mutable_processes(0)->mutable_descriptors(0)->set_number(kDescriptorNumberMax);
  EXPECT_FALSE(validate_descriptions(snapshot));
}

TEST(Options, OnlyKnownOnesOfABoundedSizeAreAccepted) {
  SocketOptions options;
  model::SocketOption& option = *options.Add();
  option.set_level(SOL_SOCKET);
  option.set_name(SO_PASSCRED);
  option.set_value("\1\0\0\0", 4);
  EXPECT_TRUE(validate_options(options, unix_options()));
  EXPECT_FALSE(validate_options(options, tcp_options(AF_INET)));
  option.set_value(std::string(65, 'x'));
  EXPECT_FALSE(validate_options(options, unix_options()));
  option.set_level(IPPROTO_TCP);
  option.set_name(TCP_REPAIR);
  option.set_value("\1\0\0\0", 4);
  EXPECT_FALSE(validate_options(options, tcp_options(AF_INET)));
}

TEST(Options, WhatIsReadIsAppliedAgain) {
  const Fd one(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  const Fd other(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  const int on = 1;
  ASSERT_EQ(::setsockopt(one.get(), SOL_SOCKET, SO_PASSCRED, &on, sizeof on), 0);
  SocketOptions options;
  read_options(one.get(), unix_options(), options);
  ASSERT_TRUE(validate_options(options, unix_options()));
  ASSERT_TRUE(apply_option(other.get(), options, {SOL_SOCKET, SO_PASSCRED}));
  int value = 0;
  socklen_t length = sizeof value;
  ASSERT_EQ(::getsockopt(other.get(), SOL_SOCKET, SO_PASSCRED, &value, &length), 0);
  EXPECT_EQ(value, 1);
}

}  // namespace
}  // namespace godwit::runtime
