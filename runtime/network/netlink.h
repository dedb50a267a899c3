// rtnetlink(7), as little of it as is needed: one request, one acknowledgement, in process.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/fd.h"
#include "base/result.h"

namespace godwit::runtime {

// Builds one request in a buffer of its own.
class NetlinkMessage {
 public:
  NetlinkMessage(uint16_t type, uint16_t flags);
  // The fixed header that follows the netlink header (ifinfomsg, ndmsg); before any attribute.
  template <typename Header>
  NetlinkMessage& header(const Header& value) {
    append(&value, sizeof value);
    return *this;
  }
  NetlinkMessage& attribute(uint16_t type, const void* data, size_t bytes);
  NetlinkMessage& u8(uint16_t type, uint8_t value) { return attribute(type, &value, sizeof value); }
  NetlinkMessage& u32(uint16_t type, uint32_t value) { return attribute(type, &value, sizeof value); }
  NetlinkMessage& text(uint16_t type, const std::string& value) {
    return attribute(type, value.c_str(), value.size() + 1);
  }
  // Everything between open(T) and its close() is nested in an attribute T.
  NetlinkMessage& open(uint16_t type);
  NetlinkMessage& close();
  [[nodiscard]] std::span<const std::byte> finish(uint32_t sequence);

 private:
  void append(const void* data, size_t bytes);

  std::vector<std::byte> buffer_;
  std::vector<size_t> nested_;
};

// A socket in the network namespace of the thread that opens it. Not thread-safe.
class Netlink {
 public:
  static Result<Netlink> open();
  // Sends a request and waits for the kernel's acknowledgement; its errno is returned as it is.
  [[nodiscard]] Result<void> request(NetlinkMessage message, std::string_view operation,
                                     const std::string& object);

 private:
  explicit Netlink(Fd socket) : socket_(std::move(socket)) {}
  Fd socket_;
  uint32_t sequence_ = 0;
};

// Interfaces of the calling thread's network namespace.
[[nodiscard]] Result<uint32_t> interface_index(const std::string& name);
[[nodiscard]] Result<uint32_t> interface_mtu(const std::string& name);
Result<void> set_link_up(Netlink& netlink, uint32_t index, const std::string& name);
// master 0: takes it out of its bridge.
Result<void> set_link_master(Netlink& netlink, uint32_t index, uint32_t master, const std::string& name);
// No such interface is success.
Result<void> delete_link(Netlink& netlink, const std::string& name);
// `state`: BR_STATE_* of linux/if_bridge.h.
Result<void> set_port_state(Netlink& netlink, uint32_t index, uint8_t state, const std::string& name);

}  // namespace godwit::runtime
