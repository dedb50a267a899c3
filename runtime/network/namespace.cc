#include "runtime/network/namespace.h"

#include <fcntl.h>
#include <net/if.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <unistd.h>

#include <thread>

namespace godwit::runtime {
namespace {

Result<void> bring_up_loopback() {
  const Fd socket(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  if (!socket.valid()) return fail("open a socket in", "the new network namespace");
  ifreq request{};
  request.ifr_name[0] = 'l';
  request.ifr_name[1] = 'o';
  request.ifr_flags = IFF_UP;
  if (::ioctl(socket.get(), SIOCSIFFLAGS, &request) != 0) return fail("bring up", "lo");
  return {};
}

// A thread of its own, because a thread that has left the process's namespace must not go on to other work.
Result<void> on_a_thread(const std::function<Result<void>()>& work) {
  Result<void> result;
  std::thread thread([&] { result = work(); });
  thread.join();
  return result;
}

}  // namespace

Result<void> make_network_namespace(const std::string& path) {
  const Fd file(::open(path.c_str(), O_CREAT | O_EXCL | O_RDONLY | O_CLOEXEC, 0444));
  if (!file.valid())
    return fail(
        "make the network namespace", path, errno,
        errno == EEXIST ? "the container is attached already, or a killed run left it: detach it first" : "");
  auto made = on_a_thread([&]() -> Result<void> {
    if (::unshare(CLONE_NEWNET) != 0) return fail("make the network namespace", path);
    GODWIT_TRY(bring_up_loopback());
    if (::mount("/proc/thread-self/ns/net", path.c_str(), nullptr, MS_BIND, nullptr) != 0)
      return fail("mount the network namespace at", path);
    return {};
  });
  if (!made) ::unlink(path.c_str());
  return made;
}

Result<void> remove_network_namespace(const std::string& path) {
  if (::umount2(path.c_str(), MNT_DETACH | UMOUNT_NOFOLLOW) != 0 && errno != EINVAL && errno != ENOENT)
    return fail("unmount the network namespace", path);
  if (::unlink(path.c_str()) != 0 && errno != ENOENT) return fail("remove the network namespace", path);
  return {};
}

Result<void> run_in_network_namespace(const std::string& path, const std::function<Result<void>()>& work) {
  GODWIT_ASSIGN(const Fd target, open_file(path, O_RDONLY));
  return run_in_network_namespace(target, path, work);
}

Result<void> run_in_network_namespace(const Fd& network_namespace, const std::string& name,
                                      const std::function<Result<void>()>& work) {
  return on_a_thread([&]() -> Result<void> {
    if (::setns(network_namespace.get(), CLONE_NEWNET) != 0)
      return fail("enter the network namespace of", name);
    return work();
  });
}

}  // namespace godwit::runtime
