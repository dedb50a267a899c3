// TCP sockets as the links use them: numeric addresses (a name lookup has no deadline), TCP_NODELAY, a silent
// peer noticed after kSilenceMsMax, and the small exchanges of the handshake with a deadline on each call.
//
// Deadlines are moments of monotonic_ns(); 0 means none.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "base/fd.h"
#include "base/result.h"
#include "transport/deadline.h"

namespace godwit::transport {

// Unacknowledged data, or no answer to keepalive probes, for this long ends a connection (tcp(7)
// TCP_USER_TIMEOUT). The kernel counts a peer that lets its window stay shut for this long as silent, too.
inline constexpr int kSilenceMsMax = 5000;

// Waits for poll(2) events. ETIMEDOUT at the deadline; signals do not end the wait.
Result<void> wait_for(int fd, short events, int64_t deadline_ns);

// A listening socket that does not block; `address` is IPv4 or IPv6, port 0 lets the kernel choose.
Result<Fd> listen_tcp(const std::string& address, uint16_t port);
Result<uint16_t> local_port(int socket);
// A connected socket in blocking mode, with the options of tune_stream().
Result<Fd> connect_tcp(const std::string& address, uint16_t port, int64_t deadline_ns);
Result<void> tune_stream(int socket);
Result<void> set_blocking(int socket);

// All of `bytes`. A closed peer is ECONNRESET.
Result<void> send_all(int socket, std::span<const std::byte> bytes, int64_t deadline_ns);
Result<void> receive_all(int socket, std::span<std::byte> bytes, int64_t deadline_ns);

}  // namespace godwit::transport
