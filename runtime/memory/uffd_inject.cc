// A userfaultfd(2) belongs to the address space of the process that makes it: it is made there by injection
// and taken out by pidfd_getfd(2).
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "runtime/memory/dirty_tracker.h"
#include "runtime/process/puppet.h"

namespace godwit::runtime {

Result<std::unique_ptr<DirtyTracker>> make_uffd_async_tracker(pid_t pid, Puppet& puppet) {
  const std::string name = "pid " + std::to_string(pid);
  const Fd process(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0)));
  if (!process.valid()) return fail("pidfd_open", name);
  // User mode only is what a process without CAP_SYS_PTRACE may have (vm.unprivileged_userfaultfd). It limits
  // who is told of faults, and asynchronous write protection tells nobody: the kernel's own writes are marked
  // all the same.
  GODWIT_ASSIGN(const int64_t made,
                puppet.call(SYS_userfaultfd, {O_CLOEXEC | O_NONBLOCK | UFFD_USER_MODE_ONLY}, "userfaultfd"));
  Fd userfaultfd(static_cast<int>(::syscall(SYS_pidfd_getfd, process.get(), made, 0)));
  const int code = errno;
  GODWIT_TRY(puppet.call(SYS_close, {made}, "close the userfaultfd"));
  if (!userfaultfd.valid()) return fail("take the userfaultfd out of", name, code);
  return make_uffd_async_tracker(pid, std::move(userfaultfd));
}

}  // namespace godwit::runtime
