#include "runtime/process/descriptors/options.h"

#include <linux/tcp.h>
#include <netinet/in.h>
#include <netinet/ip.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cstring>

#ifndef SO_BUF_LOCK
#define SO_BUF_LOCK 72
#endif

namespace godwit::runtime {
namespace {

constexpr size_t kOptionBytesMax = 64;

// SO_BUF_LOCK after the sizes: setting a size locks it.
constexpr std::array kUnix = {
    OptionName{SOL_SOCKET, SO_RCVBUF},   OptionName{SOL_SOCKET, SO_SNDBUF},
    OptionName{SOL_SOCKET, SO_BUF_LOCK}, OptionName{SOL_SOCKET, SO_PASSCRED},
    OptionName{SOL_SOCKET, SO_RCVLOWAT}, OptionName{SOL_SOCKET, SO_RCVTIMEO},
    OptionName{SOL_SOCKET, SO_SNDTIMEO},
};

#define GODWIT_INET_OPTIONS                                                                                  \
  OptionName{SOL_SOCKET, SO_RCVBUF}, OptionName{SOL_SOCKET, SO_SNDBUF}, OptionName{SOL_SOCKET, SO_BUF_LOCK}, \
      OptionName{SOL_SOCKET, SO_REUSEADDR}, OptionName{SOL_SOCKET, SO_REUSEPORT},                            \
      OptionName{SOL_SOCKET, SO_KEEPALIVE}, OptionName{SOL_SOCKET, SO_BROADCAST},                            \
      OptionName{SOL_SOCKET, SO_DONTROUTE}, OptionName{SOL_SOCKET, SO_OOBINLINE},                            \
      OptionName{SOL_SOCKET, SO_LINGER}, OptionName{SOL_SOCKET, SO_RCVLOWAT},                                \
      OptionName{SOL_SOCKET, SO_RCVTIMEO}, OptionName{SOL_SOCKET, SO_SNDTIMEO},                              \
      OptionName{SOL_SOCKET, SO_PRIORITY}, OptionName{SOL_SOCKET, SO_MARK},                                  \
      OptionName{SOL_SOCKET, SO_BINDTODEVICE}, OptionName{IPPROTO_IP, IP_TOS},                               \
      OptionName{IPPROTO_IP, IP_TTL}, OptionName{IPPROTO_IP, IP_MTU_DISCOVER},                               \
      OptionName{IPPROTO_IP, IP_FREEBIND}, OptionName {                                                      \
    IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT                                                                      \
  }

#define GODWIT_TCP_OPTIONS                                                                           \
  OptionName{IPPROTO_TCP, TCP_NODELAY}, OptionName{IPPROTO_TCP, TCP_CORK},                           \
      OptionName{IPPROTO_TCP, TCP_KEEPIDLE}, OptionName{IPPROTO_TCP, TCP_KEEPINTVL},                 \
      OptionName{IPPROTO_TCP, TCP_KEEPCNT}, OptionName{IPPROTO_TCP, TCP_SYNCNT},                     \
      OptionName{IPPROTO_TCP, TCP_USER_TIMEOUT}, OptionName{IPPROTO_TCP, TCP_QUICKACK},              \
      OptionName{IPPROTO_TCP, TCP_CONGESTION}, OptionName{IPPROTO_TCP, TCP_NOTSENT_LOWAT},           \
      OptionName{IPPROTO_TCP, TCP_DEFER_ACCEPT}, OptionName{IPPROTO_TCP, TCP_FASTOPEN}, OptionName { \
    IPPROTO_TCP, TCP_LINGER2                                                                         \
  }

#define GODWIT_INET6_OPTIONS                                                                 \
  OptionName{IPPROTO_IPV6, IPV6_V6ONLY}, OptionName{IPPROTO_IPV6, IPV6_TCLASS}, OptionName { \
    IPPROTO_IPV6, IPV6_UNICAST_HOPS                                                          \
  }

constexpr std::array kTcp4 = {GODWIT_INET_OPTIONS, GODWIT_TCP_OPTIONS};
constexpr std::array kTcp6 = {GODWIT_INET6_OPTIONS, GODWIT_INET_OPTIONS, GODWIT_TCP_OPTIONS};
constexpr std::array kUdp4 = {GODWIT_INET_OPTIONS, OptionName{IPPROTO_IP, IP_PKTINFO}};
constexpr std::array kUdp6 = {GODWIT_INET6_OPTIONS, GODWIT_INET_OPTIONS, OptionName{IPPROTO_IP, IP_PKTINFO},
                              OptionName{IPPROTO_IPV6, IPV6_RECVPKTINFO}};

bool contains(std::span<const OptionName> names, int level, int name) {
  return std::ranges::any_of(names,
                             [&](OptionName known) { return known.level == level && known.name == name; });
}

std::string describe(const model::SocketOption& option) {
  return "level " + std::to_string(option.level()) + " option " + std::to_string(option.name());
}

Result<void> apply(int socket, const model::SocketOption& option) {
  int name = option.name();
  std::string value = option.value();
  if (value.empty()) return {};
  if (option.level() == SOL_SOCKET && (name == SO_RCVBUF || name == SO_SNDBUF)) {
    // The kernel doubles what is set, and tells the doubled value.
    int size = 0;
    if (value.size() != sizeof size) return refuse("set socket buffer", describe(option), "wrong size");
    std::memcpy(&size, value.data(), sizeof size);
    size /= 2;
    value.assign(reinterpret_cast<const char*>(&size), sizeof size);
    name = name == SO_RCVBUF ? SO_RCVBUFFORCE : SO_SNDBUFFORCE;
  }
  if (::setsockopt(socket, option.level(), name, value.data(), static_cast<socklen_t>(value.size())) != 0)
    return fail("set socket option", describe(option));
  return {};
}

}  // namespace

std::span<const OptionName> unix_options() {
  return kUnix;
}
std::span<const OptionName> tcp_options(uint32_t family) {
  return family == AF_INET6 ? std::span<const OptionName>(kTcp6) : std::span<const OptionName>(kTcp4);
}
std::span<const OptionName> udp_options(uint32_t family) {
  return family == AF_INET6 ? std::span<const OptionName>(kUdp6) : std::span<const OptionName>(kUdp4);
}

void read_options(int socket, std::span<const OptionName> names, SocketOptions& options) {
  for (const OptionName& known : names) {
    char value[kOptionBytesMax];
    socklen_t length = sizeof value;
    if (::getsockopt(socket, known.level, known.name, value, &length) != 0) continue;
    // Names come padded with zeroes.
    if (known.level == IPPROTO_TCP && known.name == TCP_CONGESTION)
      length = static_cast<socklen_t>(::strnlen(value, length));
    model::SocketOption& option = *options.Add();
    option.set_level(known.level);
    option.set_name(known.name);
    option.set_value(value, length);
  }
}

Result<void> validate_options(const SocketOptions& options, std::span<const OptionName> allowed) {
  for (const model::SocketOption& option : options) {
    if (!contains(allowed, option.level(), option.name()))
      return refuse("accept socket", describe(option), "not an option that travels");
    if (option.value().size() > kOptionBytesMax)
      return refuse("accept socket", describe(option), "its value is too long");
  }
  return {};
}

Result<void> apply_option(int socket, const SocketOptions& options, OptionName name) {
  for (const model::SocketOption& option : options)
    if (option.level() == name.level && option.name() == name.name) return apply(socket, option);
  return {};
}

Result<void> apply_options(int socket, const SocketOptions& options, std::span<const OptionName> except) {
  for (const model::SocketOption& option : options)
    if (!contains(except, option.level(), option.name())) GODWIT_TRY(apply(socket, option));
  return {};
}

}  // namespace godwit::runtime
