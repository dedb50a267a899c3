#include "runtime/process/descriptors/unix_thread.h"

#include <linux/securebits.h>
#include <sched.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <thread>

namespace godwit::runtime {

Result<void> on_own_thread(const std::function<Result<void>()>& work) {
  Result<void> outcome;
  // A change of user takes it from the whole process.
  const int dumpable = ::prctl(PR_GET_DUMPABLE);
  std::thread thread([&] {
    if (::unshare(CLONE_FS) != 0) {
      outcome = fail("unshare", "the root directory of a thread");
      return;
    }
    ::umask(0777);
    outcome = work();
  });
  thread.join();
  if (dumpable == 1 && ::prctl(PR_SET_DUMPABLE, 1) != 0 && outcome)
    return fail("set dumpable", "this process");
  return outcome;
}

Result<void> act_as(uid_t uid, gid_t gid) {
  if (::geteuid() == uid && ::getegid() == gid) return {};
  const int bits = ::prctl(PR_GET_SECUREBITS);
  if (bits < 0 || ::prctl(PR_SET_SECUREBITS, bits | SECBIT_NO_SETUID_FIXUP) != 0)
    return fail("keep the capabilities of", "a thread");
  // Not the C library's wrappers, which change all threads.
  if (::syscall(SYS_setresgid, -1, gid, -1) != 0 || ::syscall(SYS_setresuid, -1, uid, -1) != 0)
    return fail("act as", "user " + std::to_string(uid) + " group " + std::to_string(gid));
  return {};
}

Result<void> enter_root(int root) {
  if (::fchdir(root) != 0 || ::chroot(".") != 0) return fail("enter", "the root directory of the container");
  return {};
}

}  // namespace godwit::runtime
