// Peer: the other end of a session's control connection (session.proto), and everything else that may end a
// wait for it: a cancelled order, an agent that is gone, a failed page writer.
//
// Threads: one. Waits are bounded by the deadline that was set.
#pragma once

#include <functional>
#include <optional>
#include <vector>

#include "base/fd.h"
#include "base/result.h"
#include "engine/protocol/session.pb.h"

namespace godwit::engine {

class Peer {
 public:
  // `name`: of the other end, for messages: "the target 10.0.0.2:7000".
  Peer(Fd socket, std::string name);
  [[nodiscard]] int socket() const { return socket_.get(); }
  [[nodiscard]] const std::string& name() const { return name_; }

  void set_deadline_ns(int64_t deadline_ns) { deadline_ns_ = deadline_ns; }
  // When `fd` becomes readable, `why` is asked; its error ends whatever wait is under way.
  void interrupt_on(int fd, std::function<Result<void>()> why);
  // From now on nothing but the peer and the deadline ends a wait: after the commit there is no way back.
  void ignore_interrupts() { interrupts_.clear(); }

  Result<void> send(const model::ControlMessage& message);
  // The next message, which must be the wanted one. An Abort, a Refusal or a closed connection is an error
  // that carries the peer's words.
  Result<model::ControlMessage> expect(model::ControlMessage::MessageCase wanted);
  Result<model::ControlMessage> receive();
  // The same, but an Abort is a message like others: for who has to tell it from everything else that ends a
  // wait.
  Result<model::ControlMessage> receive_or_abort();
  // Without waiting: an error if the peer, the agent or the deadline has ended the session, or a message has
  // come.
  Result<void> check();
  // The same where the peer may have gone ahead: one message that has come is kept for receive().
  Result<void> check_ahead();
  // After an error elsewhere (the link was cut): the reason that the peer gives, if it gives one soon, is the
  // better one.
  Error prefer_its_words(Error error);
  // Tells the peer, if it still listens, why the session ends.
  void abort(const std::string& why);

 private:
  Result<void> wait_readable();
  Result<model::ControlMessage> receive_next();
  Result<model::ControlMessage> receive_as_sent();
  Result<std::optional<model::ControlMessage>> receive_present();
  Result<void> ask_interrupts(bool& socket_readable, int timeout_ms);

  struct Interrupt {
    int fd;
    std::function<Result<void>()> why;
  };
  Fd socket_;
  std::string name_;
  int64_t deadline_ns_ = 0;
  std::vector<Interrupt> interrupts_;
  std::optional<model::ControlMessage> ahead_;
};

// Connects to an agent's control listener, "ADDR:PORT" or "[ADDR6]:PORT".
Result<Fd> connect_to_agent(const std::string& address, int64_t deadline_ns);

}  // namespace godwit::engine
