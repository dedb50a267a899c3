// Descriptors go into a stopped process: SCM_RIGHTS over the channel it inherited, received by injection.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "runtime/process/descriptors.h"

namespace godwit::runtime {

// One entry of the table to make: a descriptor of ours, and what becomes of it there.
struct HandedDescriptor {
  int ours = -1;
  int number = -1;
  bool close_on_exec = false;
};

// Sends descriptors, at most 253 a message (SCM_MAX_FD), without waiting.
Result<void> send_descriptors(int channel, const std::vector<int>& descriptors);

// Makes the table of `process` exactly `table` (ascending numbers): everything else is closed, the channel
// too. `after` is called to add more calls to the same batch, before the channel is closed.
class TableHandOver {
 public:
  TableHandOver(int channel, int channel_there) : channel_(channel), channel_there_(channel_there) {}
  Result<void> run(const ReplicaProcess& process, const std::vector<HandedDescriptor>& table,
                   CallBatch& batch, const std::function<Result<void>(CallBatch&)>& after);
  // One more descriptor; returns its number there.
  Result<int> hand_in(const ReplicaProcess& process, int fd) const;

 private:
  int channel_;
  int channel_there_;
};

}  // namespace godwit::runtime
