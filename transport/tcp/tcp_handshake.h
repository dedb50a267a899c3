// TcpHandshake: the target's side of the handshake. Everybody who can reach the port may connect, so a
// connection gets nothing but 64 bytes of memory and kHelloWaitNs until it has said the token.
//
// Threads: one. Nothing here waits: when fd() is readable, or from time to time, because slow connections are
// dropped then, step() is to be called.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <vector>

#include "base/fd.h"
#include "base/result.h"
#include "transport/link.h"
#include "transport/tcp/frame.h"

namespace godwit::transport {

// Tells a source why it is refused. A peer that is gone already needs no answer.
void send_refusal(int socket, RefusalReason reason);

class TcpHandshake {
 public:
  // `listener` is the caller's, and outlives this.
  static Result<TcpHandshake> create(int listener, const LinkToken& token);

  [[nodiscard]] int fd() const { return epoll_.get(); }
  // True: all streams of one source are here; take them, and another source may come.
  Result<bool> step();
  [[nodiscard]] const LinkOptions& options() const { return options_; }
  Result<std::vector<Fd>> take_sockets();

 private:
  struct Pending {
    Fd socket;
    int64_t until_ns = 0;
    size_t filled = 0;
    std::array<std::byte, sizeof(Hello)> bytes{};
  };

  TcpHandshake(int listener, const LinkToken& token) : listener_(listener), token_(token) {}
  Result<void> watch(int socket, uint64_t id);
  Result<void> accept_one();
  void read_some(uint64_t id);
  void greet(Fd socket, const Hello& hello);

  int listener_;
  LinkToken token_;
  Fd epoll_;
  std::map<uint64_t, Pending> pending_;  // by their number, the oldest first
  uint64_t accepted_ = 0;
  LinkOptions options_;
  std::vector<Fd> sockets_;  // by stream; empty before the first hello
  uint32_t missing_ = 1;
};

}  // namespace godwit::transport
