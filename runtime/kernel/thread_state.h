// What a thread of somebody else is doing while it keeps others waiting, as /proc shows it (proc(5)).
//
// Ids are those of this process's pid namespace. Everything is a look at something that goes on by itself: it
// may be otherwise when the function returns, unless the thread is frozen or stopped. A thread that has ended
// is in no state. Threads: no state is kept. About 15 us a call.
#pragma once

#include <sys/types.h>

#include <string>

namespace godwit::runtime {

// The letter of /proc/PID/stat: R running, S sleeping, D in a sleep that only its end ends, T stopped, ...;
// '?' if the thread is gone. (The v1 freezer's threads show D.)
[[nodiscard]] char thread_state(pid_t tid);
// Whether it waits for the child that it made by vfork(2), or by clone(2) with CLONE_VFORK, to execute a
// program or to end. Such a thread answers no PTRACE_INTERRUPT, and its child, if that is held, does not end
// the wait. It counts as frozen for the cgroup freezer. One that is just on its way there is waited for, some
// 20 us.
[[nodiscard]] bool waits_in_vfork(pid_t tid);
inline constexpr const char* kInVfork = "it waits in vfork(2) until its child executes a program or ends";
// "pid 12 (python3)" or "thread 14 of pid 12 (python3)", numbered as its own pid namespace does.
[[nodiscard]] std::string thread_name(pid_t tid);
// For the user, why it does not come out of the kernel: "it waits in vfork(2) ...", or the name of the
// kernel's function that it sleeps in.
[[nodiscard]] std::string what_holds(pid_t tid);

}  // namespace godwit::runtime
