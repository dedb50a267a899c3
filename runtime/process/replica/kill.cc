// The end of a process of the replica, in whatever state it is: also one that the kernel has killed.
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <charconv>
#include <filesystem>

#include "runtime/process/replica/member.h"

namespace godwit::runtime::rebuild {
namespace {

bool has_ended(pid_t tid) {
  int status = 0;
  const pid_t found = ::waitpid(tid, &status, __WALL | WNOHANG);
  if (found == 0 || (found < 0 && errno == EINTR)) return false;
  return found < 0 || WIFEXITED(status) || WIFSIGNALED(status);
}

// Also those that nobody has taken over yet: a process can be killed in the middle of a clone3(2).
void wait_for_threads(pid_t process) {
  std::error_code error;
  for (std::filesystem::directory_iterator entry("/proc/" + std::to_string(process) + "/task", error), end;
       !error && entry != end; entry.increment(error)) {
    const std::string name = entry->path().filename();
    pid_t tid = 0;
    std::from_chars(name.data(), name.data() + name.size(), tid);
    if (tid > 0 && tid != process) static_cast<void>(has_ended(tid));
  }
}

}  // namespace

// The threads end in any order, the leader is reported after all others, and the last thread of an init ends
// when all others have been waited for; so none of them can be waited for alone.
Result<void> kill_process(pid_t host_pid) {
  constexpr int kAttempts = 50000;  // of 100 us: what does not die in five seconds is stuck in the kernel
  const std::string name = "process " + std::to_string(host_pid);
  if (::kill(host_pid, SIGKILL) < 0 && errno != ESRCH) return fail("kill", name);
  for (int attempt = 0; attempt < kAttempts; attempt++) {
    wait_for_threads(host_pid);
    if (has_ended(host_pid)) return {};
    ::usleep(100);
  }
  return fail("kill", name, ETIMEDOUT);
}

Result<void> kill_member(Member& member) {
  for (MemberThread& thread : member.threads) thread.puppet->abandon();
  member.threads.clear();
  return kill_process(member.host_pid);
}

}  // namespace godwit::runtime::rebuild
