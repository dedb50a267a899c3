#include "runtime/process/descriptors/hand_over.h"

#include <fcntl.h>
#include <linux/close_range.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>

#include <algorithm>
#include <cstring>

namespace godwit::runtime {
namespace {

constexpr size_t kRightsMax = 253;

std::string name_of(const ReplicaProcess& process) {
  return "replica process " + std::to_string(process.container_pid);
}

// Adds recvmsg(2) for `count` descriptors; returns the place of the control message.
CallBatch::Place add_receive(CallBatch& batch, int channel, size_t count, int flags) {
  const auto byte = batch.room(8);
  const auto part = batch.object(iovec{.iov_base = nullptr, .iov_len = 1});
  const auto control = batch.room(CMSG_SPACE(count * sizeof(int)));
  msghdr header{};
  header.msg_iovlen = 1;
  header.msg_controllen = control.size;
  const auto message = batch.object(header);
  batch.link(part, offsetof(iovec, iov_base), byte);
  batch.link(message, offsetof(msghdr, msg_iov), part);
  batch.link(message, offsetof(msghdr, msg_control), control);
  batch.call(SYS_recvmsg, {channel, message, flags | MSG_DONTWAIT}, "recvmsg of descriptors");
  return control;
}

// The numbers that a control message brought.
std::vector<int> received(const CallBatch& batch, CallBatch::Place control, size_t count) {
  const auto bytes = batch.bytes(control);
  cmsghdr header{};
  if (bytes.size() < CMSG_LEN(count * sizeof(int))) return {};
  std::memcpy(&header, bytes.data(), sizeof header);
  if (header.cmsg_level != SOL_SOCKET || header.cmsg_type != SCM_RIGHTS ||
      header.cmsg_len != CMSG_LEN(count * sizeof(int)))
    return {};
  std::vector<int> numbers(count);
  std::memcpy(numbers.data(), bytes.data() + CMSG_LEN(0), count * sizeof(int));
  return numbers;
}

// Raises the soft and hard limit of open files for the life of this object.
class RaisedLimit {
 public:
  static Result<RaisedLimit> of(const ReplicaProcess& process, rlim_t needed) {
    rlimit before{};
    if (::prlimit(process.host_pid, RLIMIT_NOFILE, nullptr, &before) != 0)
      return fail("ask the limits of", name_of(process));
    if (before.rlim_cur >= needed) return RaisedLimit(0, before);
    const rlimit raised = {.rlim_cur = needed, .rlim_max = std::max(needed, before.rlim_max)};
    if (::prlimit(process.host_pid, RLIMIT_NOFILE, &raised, nullptr) != 0)
      return fail("raise RLIMIT_NOFILE of", name_of(process));
    return RaisedLimit(process.host_pid, before);
  }
  RaisedLimit(RaisedLimit&& other) noexcept : pid_(std::exchange(other.pid_, 0)), before_(other.before_) {}
  RaisedLimit(const RaisedLimit&) = delete;
  RaisedLimit& operator=(const RaisedLimit&) = delete;
  RaisedLimit& operator=(RaisedLimit&&) = delete;
  ~RaisedLimit() {
    if (pid_ != 0) ::prlimit(pid_, RLIMIT_NOFILE, &before_, nullptr);
  }

 private:
  RaisedLimit(pid_t pid, rlimit before) : pid_(pid), before_(before) {}
  pid_t pid_;
  rlimit before_;
};

}  // namespace

Result<void> send_descriptors(int channel, const std::vector<int>& descriptors) {
  for (size_t at = 0; at < descriptors.size(); at += kRightsMax) {
    const size_t count = std::min(kRightsMax, descriptors.size() - at);
    char byte = 0;
    iovec part = {.iov_base = &byte, .iov_len = 1};
    alignas(cmsghdr) char control[CMSG_SPACE(kRightsMax * sizeof(int))] = {};
    msghdr message{};
    message.msg_iov = &part;
    message.msg_iovlen = 1;
    message.msg_control = control;
    message.msg_controllen = CMSG_SPACE(count * sizeof(int));
    cmsghdr* header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(count * sizeof(int));
    std::memcpy(CMSG_DATA(header), descriptors.data() + at, count * sizeof(int));
    if (::sendmsg(channel, &message, MSG_DONTWAIT | MSG_NOSIGNAL) != 1)
      return fail("hand over", "descriptors");
  }
  return {};
}

Result<void> TableHandOver::run(const ReplicaProcess& process, const std::vector<HandedDescriptor>& table,
                                CallBatch& batch, const std::function<Result<void>(CallBatch&)>& after) {
  std::vector<int> ours;
  ours.reserve(table.size());
  for (const HandedDescriptor& one : table) ours.push_back(one.ours);
  // The channel goes above every number of the table; all else is closed, so that what is received gets the
  // numbers 0, 1, 2 ... in order. As the table ascends, each entry's final number is never below the one it
  // was received under, and moving them from the last to the first never hits one that still has to move.
  const int above = std::max(table.empty() ? 0 : table.back().number, static_cast<int>(table.size())) + 1;
  GODWIT_ASSIGN(const RaisedLimit limit, RaisedLimit::of(process, static_cast<rlim_t>(above) + 1));
  if (above != channel_there_) batch.call(SYS_dup3, {channel_there_, above, O_CLOEXEC}, "move the channel");
  batch.call(SYS_close_range, {0, above - 1, 0}, "close_range");
  batch.call(SYS_close_range, {above + 1, ~0U, 0}, "close_range");
  std::vector<std::pair<CallBatch::Place, size_t>> messages;
  for (size_t at = 0; at < table.size(); at += kRightsMax) {
    const size_t count = std::min(kRightsMax, table.size() - at);
    messages.emplace_back(add_receive(batch, above, count, 0), count);
  }
  for (size_t i = table.size(); i-- > 0;) {
    const HandedDescriptor& one = table[i];
    const int now = static_cast<int>(i);
    if (one.number != now) {
      batch.call(SYS_dup3, {now, one.number, one.close_on_exec ? O_CLOEXEC : 0}, "dup3 into place");
      batch.call(SYS_close, {now}, "close");
    } else if (one.close_on_exec) {
      batch.call(SYS_fcntl, {now, F_SETFD, FD_CLOEXEC}, "fcntl F_SETFD");
    }
  }
  GODWIT_TRY(after(batch));
  batch.call(SYS_close, {above}, "close the channel");
  GODWIT_TRY(send_descriptors(channel_, ours));
  GODWIT_TRY(process.leader->run(batch));
  int expected = 0;
  for (const auto& [place, count] : messages)
    for (const int number : received(batch, place, count))
      if (number != expected++) return refuse("hand over", name_of(process), "numbers came in another order");
  if (expected != static_cast<int>(table.size()))
    return refuse("hand over", name_of(process), "not all descriptors have arrived");
  return {};
}

Result<int> TableHandOver::hand_in(const ReplicaProcess& process, int fd) const {
  CallBatch batch;
  const auto control = add_receive(batch, channel_there_, 1, MSG_CMSG_CLOEXEC);
  GODWIT_TRY(send_descriptors(channel_, {fd}));
  GODWIT_TRY(process.leader->run(batch));
  const auto numbers = received(batch, control, 1);
  if (numbers.size() != 1) return refuse("hand over", name_of(process), "the descriptor has not arrived");
  return numbers.front();
}

}  // namespace godwit::runtime
