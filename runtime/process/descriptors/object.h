// What kind of object stands behind a descriptor, or why it cannot be moved. Unknown means refused.
#pragma once

#include <sys/stat.h>

#include <string>

#include "base/fd.h"
#include "base/result.h"

namespace godwit::runtime {

enum class ObjectKind {
  kInvalid,
  kFile,
  kDevice,
  kPipe,
  kFifo,
  kEventCounter,
  kEpoll,
  kTimer,
  kSignal,
  kUnixSocket,
  kTcpSocket,
  kUdpSocket,
  kMemory,
  kLog,
};

// Facts from outside, read once per descriptor and kept as long as its link does not change.
struct ObjectFacts {
  std::string link;  // of /proc/PID/fd/N
  struct stat status {};
  long filesystem = 0;  // statfs(2) f_type
  uint32_t flags = 0;   // of fdinfo
  int family = 0;       // sockets: SO_DOMAIN, SO_TYPE, SO_PROTOCOL
  int type = 0;
  int protocol = 0;
};

struct ObjectClass {
  ObjectKind kind = ObjectKind::kInvalid;
  std::string reason;  // why it is refused; empty if it can be moved
};

// Pure. Does not check that a path is reachable: see container_path.
[[nodiscard]] ObjectClass classify(const ObjectFacts& facts, const struct stat& log);

// True for the filesystems whose files every kernel makes anew (proc, sysfs, cgroup): content is not
// compared.
[[nodiscard]] bool is_synthetic(long filesystem);

// Opens `path` below the container's root without ever leaving it (openat2(2), RESOLVE_IN_ROOT).
[[nodiscard]] Result<Fd> open_in_root(int root, const std::string& path, int flags);

}  // namespace godwit::runtime
