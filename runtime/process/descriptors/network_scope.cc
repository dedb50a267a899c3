#include "runtime/process/descriptors/network_scope.h"

#include <fcntl.h>
#include <sched.h>

#include <cstdio>
#include <cstdlib>

namespace godwit::runtime {

Result<NetworkNamespace> NetworkNamespace::of(pid_t pid) {
  GODWIT_ASSIGN(Fd home, open_file("/proc/thread-self/ns/net", O_RDONLY));
  GODWIT_ASSIGN(Fd away, open_file("/proc/" + std::to_string(pid) + "/ns/net", O_RDONLY));
  return NetworkNamespace(std::move(home), std::move(away));
}

Result<NetworkNamespace::Scope> NetworkNamespace::enter() const {
  if (::setns(away_.get(), CLONE_NEWNET) != 0) return fail("enter", "the container's network namespace");
  return Scope(home_.get());
}

NetworkNamespace::Scope::~Scope() {
  if (home_ >= 0 && ::setns(home_, CLONE_NEWNET) != 0) {
    std::perror("return from the container's network namespace");
    std::abort();
  }
}

}  // namespace godwit::runtime
