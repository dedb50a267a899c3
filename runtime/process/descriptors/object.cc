#include "runtime/process/descriptors/object.h"

#include <fcntl.h>
#include <linux/magic.h>
#include <linux/openat2.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <string_view>

#include "runtime/process/descriptors/device_number.h"

namespace godwit::runtime {
namespace {

constexpr long kMqueueMagic = 0x19800202;

ObjectClass refused(std::string reason) {
  return {.kind = ObjectKind::kInvalid, .reason = std::move(reason)};
}
ObjectClass known(ObjectKind kind) {
  return {.kind = kind, .reason = {}};
}

ObjectClass classify_anonymous(const std::string& link) {
  std::string name = link.substr(std::string_view("anon_inode:").size());
  if (name == "[eventfd]") return known(ObjectKind::kEventCounter);
  if (name == "[eventpoll]") return known(ObjectKind::kEpoll);
  if (name == "[timerfd]") return known(ObjectKind::kTimer);
  if (name == "[signalfd]") return known(ObjectKind::kSignal);
  if (name.size() > 1 && name.front() == '[') name = name.substr(1, name.size() - 2);
  return refused(name + ": this kind of kernel object cannot be rebuilt on another host");
}

ObjectClass classify_socket(const ObjectFacts& facts) {
  const std::string numbers =
      "family " + std::to_string(facts.family) + " type " + std::to_string(facts.type);
  if (facts.family == AF_UNIX) return known(ObjectKind::kUnixSocket);
  if (facts.family == AF_NETLINK) return refused("netlink socket: its state is this host's");
  if (facts.family == AF_PACKET) return refused("packet socket: it sees this host's frames");
  if (facts.family == AF_VSOCK) return refused("vsock socket: its peer is this host's hypervisor");
  if (facts.family != AF_INET && facts.family != AF_INET6)
    return refused("socket of " + numbers + ": not a kind that can be moved");
  if (facts.type == SOCK_STREAM && facts.protocol == IPPROTO_TCP) return known(ObjectKind::kTcpSocket);
  if (facts.type == SOCK_DGRAM && facts.protocol == IPPROTO_UDP) return known(ObjectKind::kUdpSocket);
  if (facts.type == SOCK_RAW) return refused("raw socket: not a kind that can be moved");
  return refused("internet socket of type " + std::to_string(facts.type) + " protocol " +
                 std::to_string(facts.protocol) + ": not a kind that can be moved");
}

bool is_memory_device(dev_t device) {
  const unsigned minor_number = minor_of(device);
  return major_of(device) == 1 &&
         (minor_number == 3 || minor_number == 5 || (minor_number >= 7 && minor_number <= 9));
}

ObjectClass classify_character_device(const ObjectFacts& facts) {
  if (is_memory_device(facts.status.st_rdev)) return known(ObjectKind::kDevice);
  const unsigned number = major_of(facts.status.st_rdev);
  if (number == 4 || number == 5 || (number >= 136 && number <= 143))
    return refused("terminal " + facts.link + ": start the container without a terminal");
  return refused("device " + facts.link + ": its state is this host's");
}

ObjectClass classify_path(const ObjectFacts& facts) {
  const mode_t mode = facts.status.st_mode;
  if ((facts.flags & O_PATH) != 0) return refused("O_PATH descriptor of " + facts.link + ": not moved");
  if (facts.link.starts_with("/memfd:") && facts.status.st_nlink == 0) return known(ObjectKind::kMemory);
  if (S_ISCHR(mode)) return classify_character_device(facts);
  if (S_ISBLK(mode)) return refused("block device " + facts.link + ": its state is this host's");
  if (facts.status.st_nlink == 0)
    return refused("deleted file " + facts.link + ": no path leads to it at the target; close or restore it");
  if (S_ISFIFO(mode)) return known(ObjectKind::kFifo);
  if (facts.filesystem == kMqueueMagic) return refused("message queue " + facts.link + ": not moved");
  if (facts.filesystem == NSFS_MAGIC) return refused("namespace " + facts.link + ": not moved");
  if (S_ISDIR(mode)) return known(ObjectKind::kFile);
  if (!S_ISREG(mode)) return refused(facts.link + ": not a kind of file that can be moved");
  if (facts.filesystem == TMPFS_MAGIC || facts.filesystem == RAMFS_MAGIC)
    return refused("file " + facts.link +
                   " lies in this host's memory (tmpfs): keep it in the root filesystem or a shared volume");
  if (is_synthetic(facts.filesystem) && (facts.flags & O_ACCMODE) != O_RDONLY)
    return refused("kernel file " + facts.link + " is open for writing: close it");
  return known(ObjectKind::kFile);
}

}  // namespace

bool is_synthetic(long filesystem) {
  return filesystem == PROC_SUPER_MAGIC || filesystem == SYSFS_MAGIC || filesystem == CGROUP_SUPER_MAGIC ||
         filesystem == CGROUP2_SUPER_MAGIC;
}

ObjectClass classify(const ObjectFacts& facts, const struct stat& log) {
  if (facts.link.starts_with("socket:[")) return classify_socket(facts);
  if (facts.link.starts_with("pipe:[")) return known(ObjectKind::kPipe);
  if (facts.link.starts_with("anon_inode:")) return classify_anonymous(facts.link);
  if (!facts.link.starts_with("/"))
    return refused(facts.link + ": this kind of kernel object cannot be rebuilt on another host");
  if (log.st_ino != 0 && facts.status.st_dev == log.st_dev && facts.status.st_ino == log.st_ino)
    return known(ObjectKind::kLog);
  return classify_path(facts);
}

Result<Fd> open_in_root(int root, const std::string& path, int flags) {
  open_how how{};
  // openat2(2) refuses flags that mean nothing together with O_PATH.
  const int more = (flags & O_PATH) != 0 ? O_CLOEXEC : O_CLOEXEC | O_NOCTTY;
  how.flags = static_cast<uint64_t>(static_cast<unsigned>(flags | more));
  how.resolve = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS;
  Fd fd(static_cast<int>(::syscall(SYS_openat2, root, path.c_str(), &how, sizeof how)));
  if (!fd.valid()) return fail("open in the container", path);
  return fd;
}

}  // namespace godwit::runtime
