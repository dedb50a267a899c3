// TCP connections of a container that no descriptor leads to, so that nobody can read or rebuild them: they
// have to end, or to get into somebody's hands, before the container can be moved. inet_diag (sock_diag(7))
// tells.
#pragma once

#include <cstddef>
#include <string>

#include "base/fd.h"
#include "base/result.h"

namespace godwit::runtime {

struct UnheldConnections {
  // Half open: the client's last acknowledgement has not come.
  size_t handshakes = 0;
  // Complete, and not accepted by the program yet.
  size_t unaccepted = 0;
  // The program has closed them, and its kernel is still sending: data, or the end of the stream. Not those
  // whose peer has not answered to some repetitions: they may go on for minutes, and the peer is most likely
  // gone.
  size_t closing = 0;
  // One of them: "port 80", "port 80 to 10.7.0.9".
  std::string unaccepted_at;
  std::string closing_at;
};

// Not thread-safe.
class ConnectionWatch {
 public:
  // `network_namespace`: the container's, a path.
  static Result<ConnectionWatch> open(const std::string& network_namespace);
  // Walks the kernel's table of connections: 0.1 to some milliseconds, by the size of that table.
  [[nodiscard]] Result<UnheldConnections> look();

 private:
  explicit ConnectionWatch(Fd netlink) : netlink_(std::move(netlink)) {}
  Result<void> look_at(int family, UnheldConnections& found);

  Fd netlink_;
};

}  // namespace godwit::runtime
