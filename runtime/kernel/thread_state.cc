#include "runtime/kernel/thread_state.h"

#include <sched.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include <bit>
#include <cstdint>
#include <optional>
#include <sstream>

#include "base/fd.h"
#include "base/printable.h"

namespace godwit::runtime {
namespace {

constexpr int kLooksMax = 20;
constexpr useconds_t kLookPauseUs = 20;

// Under task/ the kernel does not add up the whole thread group for it.
std::string own_file(pid_t tid, const char* name) {
  const std::string number = std::to_string(tid);
  return "/proc/" + number + "/task/" + number + "/" + name;
}

std::string text_of(pid_t tid, const char* name) {
  auto text = read_file(own_file(tid, name));
  if (!text.has_value()) return {};
  if (text->ends_with('\n')) text->pop_back();
  return *std::move(text);
}

// The flags with which it called clone(2), 0 if it is in another call; nothing if it runs just now.
std::optional<uint64_t> clone_flags(pid_t tid) {
  std::istringstream fields(text_of(tid, "syscall"));
  int64_t number = -1;
  uint64_t first = 0;
  if (!(fields >> number)) return std::nullopt;  // "running"
  if (number < 0) return 0;                      // outside of a call
  fields >> std::hex >> first;
  if (number == SYS_vfork) return CLONE_VFORK;
  if (number == SYS_clone) return first;
  if (number != SYS_clone3) return 0;
  uint64_t flags = 0;  // the first word of struct clone_args
  const iovec local{.iov_base = &flags, .iov_len = sizeof flags};
  const iovec remote{.iov_base = std::bit_cast<void*>(first), .iov_len = sizeof flags};
  const ssize_t got = ::process_vm_readv(tid, &local, 1, &remote, 1, 0);
  // What it was called with is lost when the child has written over its parent's stack, which it shares.
  return got == ssize_t{sizeof flags} ? flags : CLONE_VFORK;
}

// The last number behind `key` in a status file: the innermost pid namespace's.
std::string innermost(const std::string& status, const std::string& key) {
  const size_t begin = status.find("\n" + key + ":");
  if (begin == std::string::npos) return {};
  const size_t end = status.find('\n', begin + 1);
  const std::string line = status.substr(begin + 1, end - begin - 1);
  return line.substr(line.find_last_of("\t :") + 1);
}

}  // namespace

char thread_state(pid_t tid) {
  const std::string stat = text_of(tid, "stat");
  const size_t name_end = stat.rfind(')');  // the name may hold anything
  return name_end == std::string::npos || name_end + 2 >= stat.size() ? '?' : stat[name_end + 2];
}

bool waits_in_vfork(pid_t tid) {
  // A freezer that lets go wakes it, and so may others; then it goes back to its sleep.
  for (int look = 0; look < kLooksMax; ++look) {
    const char state = thread_state(tid);
    if (state != 'D' && state != 'R') return false;
    if (const auto flags = clone_flags(tid); state == 'D' && flags) return (*flags & CLONE_VFORK) != 0;
    ::usleep(kLookPauseUs);
  }
  return false;
}

std::string thread_name(pid_t tid) {
  const std::string status = text_of(tid, "status");
  const std::string process = innermost(status, "NStgid"), thread = innermost(status, "NSpid");
  if (process.empty() || thread.empty()) return "thread " + std::to_string(tid);
  const std::string name = "pid " + process + " (" + printable(text_of(tid, "comm")) + ")";
  return process == thread ? name : "thread " + thread + " of " + name;
}

std::string what_holds(pid_t tid) {
  if (waits_in_vfork(tid)) return kInVfork;
  const char state = thread_state(tid);
  if (state == '?') return "it has ended";
  const std::string place = text_of(tid, "wchan");
  if (state == 'R' || place.empty() || place == "0") return "it gets no processor";
  return "it sleeps in the kernel, in " + place;
}

}  // namespace godwit::runtime
