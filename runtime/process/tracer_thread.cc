#include "runtime/process/tracer_thread.h"

#include <sys/syscall.h>
#include <unistd.h>

#include <thread>

#include "runtime/process/puppet.h"

namespace godwit::runtime {

void run_as_tracer(const std::function<void()>& work) {
  constexpr useconds_t kPauseUs = 20;
  pid_t tid = 0;
  keep_child_signals();  // for the new thread
  std::thread tracer([&] {
    tid = ::gettid();
    work();
  });
  tracer.join();
  // One is joined a little before the kernel lets its tracees go, and gone a little after.
  while (::syscall(SYS_tgkill, ::getpid(), tid, 0) == 0) ::usleep(kPauseUs);
}

}  // namespace godwit::runtime
