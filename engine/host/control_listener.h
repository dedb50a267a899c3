// The agent's door for other agents: a TCP listener that reads the first message of each connection
// (first_message.h) and has it served, on a thread of its own. One thread reads for all, so that a connection
// that is slow or says nothing keeps nobody waiting.
//
// Greetings and inquiries have places of their own: however many migrations come in, an agent that asks what
// became of one gets its answer. A greeting for which there is no place is refused; an inquiry is closed, and
// asked again.
//
// The connection is not authenticated here: --listen belongs on a network that only the hosts share.
#pragma once

#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "base/fd.h"
#include "engine/protocol/first_message.h"

namespace godwit::engine {

class ControlListener {
 public:
  struct Bounds {
    unsigned hellos_max = 16;      // served at once: arrivals under way
    unsigned inquiries_max = 16;   // served at once
    size_t pending_max = 64;       // connections without a first message; one more, and the most silent goes
    int64_t patience_ms = 10'000;  // with such a connection
  };
  // Called from many threads at once; a call holds its place until it returns.
  struct Servants {
    std::function<void(Fd connection, const std::string& peer, const model::Hello& hello)> hello;
    std::function<void(Fd connection, const std::string& peer, const model::Inquiry& inquiry)> inquiry;
  };

  // `address`: ADDR:PORT; port 0 lets the kernel choose.
  static Result<std::unique_ptr<ControlListener>> start(const std::string& address, Servants servants,
                                                        Bounds bounds);
  // Stops accepting and waits for the servants; whoever calls it has told the sessions to end.
  ~ControlListener();
  ControlListener(const ControlListener&) = delete;
  ControlListener& operator=(const ControlListener&) = delete;
  void stop_accepting();
  [[nodiscard]] Result<uint16_t> port() const;

 private:
  struct Pending {
    Fd connection;
    std::string peer;
    std::string bytes;  // that have come: length and message
    int64_t until_ns = 0;
    int64_t heard_ns = 0;
  };

  ControlListener(Servants servants, Bounds bounds) : servants_(std::move(servants)), bounds_(bounds) {}
  void loop();
  void accept_one();
  void make_room();
  bool still_pending(Pending& pending, bool readable);
  Result<bool> hear(Pending& pending);
  void hand_over(Pending& pending);
  void refuse_busy(const Pending& pending) const;
  bool serve(unsigned& served, unsigned served_max, std::function<void()> task);

  const Servants servants_;
  const Bounds bounds_;
  Fd socket_;
  Fd wake_;
  std::mutex mutex_;
  std::condition_variable ended_;
  unsigned hellos_ = 0;  // being served
  unsigned inquiries_ = 0;
  std::vector<Pending> pending_;  // the thread's own
  std::thread thread_;
};

}  // namespace godwit::engine
