// Every kind of link, made in one process, for tests of the contract that they share.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <thread>

#include "base/clock.h"
#include "transport/fake/fake_link.h"
#include "transport/rdma/device.h"
#include "transport/rdma/rdma_link.h"
#include "transport/tcp/tcp_link.h"

namespace godwit::transport::test {

enum class Kind : uint8_t { kFake, kIoUring, kIoUringZeroCopy, kSockets, kRdma };

struct Ends {
  std::unique_ptr<LinkSender> sender;
  std::unique_ptr<LinkReceiver> receiver;
};

inline int64_t in_seconds(int seconds) {
  return monotonic_ns() + seconds * int64_t{1'000'000'000};
}

inline TcpIo io_of(Kind kind) {
  switch (kind) {
    case Kind::kIoUring:
      return TcpIo::kIoUring;
    case Kind::kIoUringZeroCopy:
      return TcpIo::kIoUringZeroCopy;
    default:
      return TcpIo::kSockets;
  }
}

inline std::string name_of(Kind kind) {
  constexpr const char* kNames[] = {"Fake", "IoUring", "IoUringZeroCopy", "Sockets", "Rdma"};
  return kNames[static_cast<size_t>(kind)];
}

// Whether this host has what the kind needs.
inline Result<void> probe(Kind kind) {
  if (kind == Kind::kRdma) return probe_rdma();
  return io_of(kind) == TcpIo::kSockets ? Result<void>{} : probe_io_uring();
}

inline Result<Ends> connect_tcp_ends(TcpIo io, const LinkOptions& options) {
  GODWIT_ASSIGN(TcpLinkListener listener, TcpLinkListener::listen("127.0.0.1", 0, io));
  Result<std::unique_ptr<LinkReceiver>> accepted;
  std::thread target([&] { accepted = listener.accept(in_seconds(10)); });
  auto connected =
      connect_tcp_link("127.0.0.1", listener.port(), listener.token(), options, in_seconds(10), io);
  target.join();
  Ends ends;
  GODWIT_ASSIGN(ends.sender, std::move(connected));
  GODWIT_ASSIGN(ends.receiver, std::move(accepted));
  return ends;
}

// Where the two ends of an RDMA link are: on two devices if this host has so many, so that packets travel.
struct RdmaPlaces {
  std::string target;
  std::string source;
};

inline Result<RdmaPlaces> find_rdma_places() {
  RdmaPlaces places;
  for (const RdmaDevice& device : list_rdma_devices()) {
    if (!device.usable) continue;
    GODWIT_ASSIGN(std::string address, address_of_device(device.name));
    if (places.target.empty()) places.target = address;
    places.source = address;
  }
  if (places.target.empty()) return fail("find", "a usable RDMA device", ENODEV);
  return places;
}

inline Result<Ends> connect_rdma_ends(const LinkOptions& options) {
  GODWIT_ASSIGN(const RdmaPlaces places, find_rdma_places());
  GODWIT_ASSIGN(RdmaLinkListener listener, RdmaLinkListener::listen(places.target));
  Result<std::unique_ptr<LinkReceiver>> accepted;
  std::thread target([&] { accepted = listener.accept(in_seconds(10)); });
  auto connected = connect_rdma_link(places.target, listener.port(), listener.token(), options,
                                     in_seconds(10), places.source);
  target.join();
  Ends ends;
  GODWIT_ASSIGN(ends.sender, std::move(connected));
  GODWIT_ASSIGN(ends.receiver, std::move(accepted));
  return ends;
}

// Both ends have a deadline, so that a test that would hang fails.
inline Result<Ends> connect_ends(Kind kind, const LinkOptions& options) {
  Ends ends;
  if (kind == Kind::kFake) {
    GODWIT_ASSIGN(FakeLink link, make_fake_link(options));
    ends = {.sender = std::move(link.sender), .receiver = std::move(link.receiver)};
  } else if (kind == Kind::kRdma) {
    GODWIT_ASSIGN(ends, connect_rdma_ends(options));
  } else {
    GODWIT_ASSIGN(ends, connect_tcp_ends(io_of(kind), options));
  }
  ends.sender->set_deadline_ns(in_seconds(20));
  ends.receiver->set_deadline_ns(in_seconds(20));
  return ends;
}

// Acquires, fills and submits.
inline Result<void> send(LinkSender& sender, uint32_t stream, uint32_t size, std::byte value) {
  GODWIT_ASSIGN(const LinkSender::Buffer buffer, sender.acquire(stream));
  for (std::byte& each : buffer.memory.first(size)) each = value;
  return sender.submit(buffer, size);
}

}  // namespace godwit::transport::test
