// Readers of the source side, one per kind of object: from a descriptor's duplicate and its fdinfo into the
// model. Where another moment may succeed (a connection not yet accepted, a socket that is closing) the error
// carries EAGAIN: thaw and try again a little later. Any other error is for good.
#pragma once

#include <span>
#include <string>
#include <unordered_map>

#include "base/result.h"
#include "runtime/process/descriptors/fdinfo.h"
#include "runtime/process/descriptors/network_scope.h"
#include "runtime/process/descriptors/object.h"
#include "runtime/process/snapshot.pb.h"

namespace godwit::runtime {

// Live: sockets without queues, pipes without contents; nothing is changed. Frozen: exact.
enum class Moment { kLive, kFrozen };

Result<void> read_regular_file(const ObjectFacts& facts, const FdInfo& info, const std::string& path,
                               model::RegularFile& file);
void read_device(const ObjectFacts& facts, model::DeviceNode& device);
Result<void> read_pipe(int pipe, const ObjectFacts& facts, Moment moment, bool with_contents,
                       model::Pipe& model);
// A kernel that does not tell EFD_SEMAPHORE is asked by reading from the frozen counter, which is put back.
Result<void> read_event_counter(int counter, const FdInfo& info, Moment moment, model::EventCounter& model);
void read_timer(const FdInfo& info, model::TimerDescriptor& timer);
Result<void> read_tcp(int socket, const ObjectFacts& facts, Moment moment, model::TcpSocket& tcp);
Result<void> read_udp(int socket, const ObjectFacts& facts, Moment moment, model::UdpSocket& udp);

// Repair mode at the source: queues and sequence numbers are read in it, and it is left again by undo.
Result<void> enter_repair(int socket);
// Leaves it without sending anything; gives back SO_REUSEADDR, which repair mode overwrites.
Result<void> leave_repair_silently(int socket, const model::TcpSocket& tcp);

// The unix sockets of one network namespace: unix_diag (sock_diag(7)).
struct UnixPeer {
  uint64_t peer = 0;
  uint32_t state = 0;
  uint32_t pending = 0;  // listeners: connections not yet accepted
  uint32_t backlog = 0;
  uint8_t shutdown = 0;  // 1: receiving, 2: sending
  std::string name;      // as UnixSocket.address has it
};
Result<std::unordered_map<uint64_t, UnixPeer>> list_unix_sockets(const NetworkNamespace& network);
Result<void> read_unix(int socket, const ObjectFacts& facts, const UnixPeer& peer, Moment moment,
                       model::UnixSocket& model);

}  // namespace godwit::runtime
