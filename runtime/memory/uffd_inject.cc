// A userfaultfd(2) belongs to the address space of the process that makes it: it is made there by injection
// and taken out by pidfd_getfd(2).
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstring>

#include "runtime/kernel/uapi.h"
#include "runtime/memory/trackers.h"
#include "runtime/process/puppet.h"

namespace godwit::runtime {
namespace {

std::string describe(pid_t pid) {
  return "pid " + std::to_string(pid);
}

// A duplicate of a descriptor of the process, which loses its own.
Result<Fd> take_out(pid_t pid, Puppet& puppet, int64_t number, const char* what) {
  const Fd process(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0)));
  const int opened = errno;
  Fd taken(process.valid() ? static_cast<int>(::syscall(SYS_pidfd_getfd, process.get(), number, 0)) : -1);
  const int code = process.valid() ? errno : opened;
  GODWIT_TRY(puppet.call(SYS_close, {number}, "close a descriptor of ours"));
  if (!taken.valid()) return fail(std::string("take the ") + what + " out of", describe(pid), code);
  return taken;
}

Result<void> send_descriptor(int socket, int descriptor) {
  char byte = 0;
  iovec part{.iov_base = &byte, .iov_len = 1};
  alignas(cmsghdr) std::array<std::byte, CMSG_SPACE(sizeof(int))> control{};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  message.msg_control = control.data();
  message.msg_controllen = control.size();
  cmsghdr* const header = CMSG_FIRSTHDR(&message);
  header->cmsg_level = SOL_SOCKET;
  header->cmsg_type = SCM_RIGHTS;
  header->cmsg_len = CMSG_LEN(sizeof(int));
  std::memcpy(CMSG_DATA(header), &descriptor, sizeof descriptor);
  if (::sendmsg(socket, &message, MSG_DONTWAIT) != 1) return fail("send", "a descriptor of /dev/userfaultfd");
  return {};
}

// Gives the process one descriptor of ours, over a socket pair of its own. Returns its number there.
Result<int64_t> put_in(pid_t pid, Puppet& puppet, int ours) {
  CallBatch make;
  const auto pair = make.room(2 * sizeof(int));
  make.call(SYS_socketpair, {AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0, pair}, "socketpair");
  GODWIT_TRY(puppet.run(make));
  const auto ends = make.read<std::array<int, 2>>(pair);
  auto sent = [&]() -> Result<void> {
    GODWIT_ASSIGN(const Fd socket, take_out(pid, puppet, ends[0], "socket"));
    return send_descriptor(socket.get(), ours);
  }();
  CallBatch receive;
  const auto control = receive.room(CMSG_SPACE(sizeof(int)));
  const auto byte = receive.room(1);
  const auto part = receive.object(iovec{.iov_base = nullptr, .iov_len = 1});
  msghdr header{};
  header.msg_iovlen = 1;
  header.msg_controllen = CMSG_SPACE(sizeof(int));
  const auto message = receive.object(header);
  receive.link(part, offsetof(iovec, iov_base), byte);
  receive.link(message, offsetof(msghdr, msg_iov), part);
  receive.link(message, offsetof(msghdr, msg_control), control);
  if (sent) receive.call(SYS_recvmsg, {ends[1], message, MSG_CMSG_CLOEXEC | MSG_DONTWAIT}, "recvmsg");
  receive.call_may_fail(SYS_close, {ends[1]});
  GODWIT_TRY(puppet.run(receive));
  GODWIT_TRY(sent);
  std::array<std::byte, CMSG_SPACE(sizeof(int))> filled{};
  std::ranges::copy(receive.bytes(control).first(filled.size()), filled.begin());
  int number = -1;
  std::memcpy(&number, filled.data() + CMSG_LEN(0), sizeof number);
  return number;
}

// By /dev/userfaultfd, whose opener may serve faults of the kernel; the address space is that of the process
// which makes the request.
Result<int64_t> make_by_device(pid_t pid, Puppet& puppet, const Fd& device) {
  GODWIT_ASSIGN(const int64_t number, put_in(pid, puppet, device.get()));
  const auto made =
      puppet.call(SYS_ioctl, {number, USERFAULTFD_IOC_NEW, O_CLOEXEC | O_NONBLOCK}, "make a userfaultfd");
  GODWIT_TRY(puppet.call(SYS_close, {number}, "close a descriptor of ours"));
  return made;
}

}  // namespace

Result<std::unique_ptr<DirtyTracker>> make_uffd_sync_tracker(pid_t pid, Puppet& puppet) {
  const auto device = open_file("/dev/userfaultfd", O_RDWR);
  auto made = device.has_value() ? make_by_device(pid, puppet, *device)
                                 : puppet.call(SYS_userfaultfd, {O_CLOEXEC | O_NONBLOCK}, "userfaultfd");
  if (!made && made.error().code == EPERM)
    made.error().hint =
        "it is not allowed to serve faults of the kernel: /dev/userfaultfd (Linux 6.1) or "
        "sysctl vm.unprivileged_userfaultfd=1 allow it";
  GODWIT_TRY(made);
  GODWIT_ASSIGN(Fd userfaultfd, take_out(pid, puppet, *made, "userfaultfd"));
  return make_uffd_sync_tracker(pid, std::move(userfaultfd));
}

Result<std::unique_ptr<DirtyTracker>> make_uffd_async_tracker(pid_t pid, Puppet& puppet) {
  // User mode only is what a process without CAP_SYS_PTRACE may have (vm.unprivileged_userfaultfd). It limits
  // who is told of faults, and asynchronous write protection tells nobody: the kernel's own writes are marked
  // all the same.
  GODWIT_ASSIGN(const int64_t made,
                puppet.call(SYS_userfaultfd, {O_CLOEXEC | O_NONBLOCK | UFFD_USER_MODE_ONLY}, "userfaultfd"));
  GODWIT_ASSIGN(Fd userfaultfd, take_out(pid, puppet, made, "userfaultfd"));
  return make_uffd_async_tracker(pid, std::move(userfaultfd));
}

TrackerFactory tracker_factory(TrackerKind kind, Standstill standstill) {
  return [kind, standstill = std::move(standstill)](pid_t pid,
                                                    Puppet& puppet) -> Result<std::unique_ptr<DirtyTracker>> {
    switch (kind) {
      case TrackerKind::kUffdAsync:
        return make_uffd_async_tracker(pid, puppet);
      case TrackerKind::kSoftDirty:
        return make_soft_dirty_tracker(pid, standstill);
      case TrackerKind::kUffdSync:
        return make_uffd_sync_tracker(pid, puppet);
      case TrackerKind::kInvalid:
        break;
    }
    return refuse("track the memory of", describe(pid), "no tracker was chosen");
  };
}

}  // namespace godwit::runtime
