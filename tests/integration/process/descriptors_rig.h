// A victim whose descriptors are captured, and a bare child that receives them: both seized, without a
// container around them.
#pragma once

#include <sys/socket.h>

#include <memory>
#include <string>

#include "base/clock.h"
#include "runtime/process/descriptors.h"
#include "tests/integration/process/victim.h"

namespace godwit::runtime::test {

inline constexpr uint32_t kPidInSnapshot = 1;

class DescriptorRig {
 public:
  // `child` inherits its end of the channel under the number channel_there().
  static std::pair<Fd, Fd> make_channel() {
    int ends[2] = {-1, -1};
    ::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends);
    return {Fd(ends[0]), Fd(ends[1])};
  }
  static Result<std::unique_ptr<Puppet>> hold(pid_t pid) {
    GODWIT_ASSIGN(auto puppet, Puppet::seize(pid));
    GODWIT_TRY(puppet->wait_stopped());
    GODWIT_TRY(puppet->make_scratch());
    return puppet;
  }
  static Result<void> capture_live(DescriptorCapture& capture, const CapturedProcess& process,
                                   model::Snapshot& live) {
    GODWIT_TRY(capture.capture_memory({process}, false, live));
    return capture.capture_live({process}, live);
  }
  static Result<void> capture_frozen(DescriptorCapture& capture, const FrozenProcess& process,
                                     model::Snapshot& frozen) {
    GODWIT_TRY(capture.capture_memory({process.process}, true, frozen));
    return capture.capture_frozen({process}, frozen);
  }
  static model::Snapshot empty_snapshot() {
    model::Snapshot snapshot;
    snapshot.add_processes()->set_pid(kPidInSnapshot);
    return snapshot;
  }
  static CapturedProcess process(pid_t pid) {
    return {.host_pid = pid, .container_pid = static_cast<pid_t>(kPidInSnapshot)};
  }
};

}  // namespace godwit::runtime::test
