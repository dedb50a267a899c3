// A process of the container while it is captured, with its threads and what is remembered of it.
#pragma once

#include <sys/types.h>

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "base/result.h"
#include "runtime/process/capture.h"
#include "runtime/process/capture/proc_text.h"
#include "runtime/process/puppet.h"

namespace godwit::runtime {

struct Member {
  CapturedProcess process;
  uint64_t start_time = 0;  // of the stat file: tells a pid that was reused
  Scratch scratch;
  bool visited = false;
  // With a child whose memory is its own: one of its threads may be in vfork(2). As of the last look.
  bool shares_with_child = false;
  bool shares_with_parent = false;
  pid_t parent = 0;  // in the agent's pid namespace
  // Held threads by host tid; empty while the container runs.
  std::map<pid_t, std::unique_ptr<Puppet>> threads;
  // Seccomp filters by host tid: they are only ever added, so a count that did not change means the same
  // ones.
  std::map<pid_t, std::vector<std::string>> filters;

  [[nodiscard]] Puppet* leader() const {
    const auto found = threads.find(process.host_pid);
    return found == threads.end() ? nullptr : found->second.get();
  }
  // The leader first; the others by host tid. In this order a frozen snapshot lists them.
  [[nodiscard]] std::vector<Puppet*> held() const;
};

// /proc/PID/NAME and /proc/PID/task/TID/NAME
[[nodiscard]] inline std::string proc_path(pid_t pid, const std::string& name) {
  return "/proc/" + std::to_string(pid) + "/" + name;
}
Result<ProcStat> read_stat(pid_t pid);
// A thread's own: /proc/TID works for threads as it does for leaders.
Result<ProcStatus> read_status(pid_t tid);
// Host tids, the leader first.
Result<std::vector<pid_t>> list_threads(pid_t pid);
// The processes of the subtree of `init`, by /proc/PID/task/TID/children, parents first.
Result<std::vector<pid_t>> list_tree(pid_t init);

// Fills everything of the process that /proc and unprivileged system calls show from outside, except memory
// mappings, threads and descriptors.
Result<void> read_process(const Member& member, pid_t init, model::Process& process);
// Appends the thread as /proc shows it.
Result<void> read_thread(pid_t tid, model::Thread& thread, ProcStatus& status);

// Frozen only. What ptrace tells of a held thread: registers are the caller's business.
Result<void> read_held_thread(Member& member, Puppet& puppet, const ProcStatus& status,
                              model::Thread& thread);
// Frozen only: of the process and of its threads, which `process` lists.
Result<void> read_pending_signals(const Member& member, model::Process& process);

// What only a thread itself can ask, as one batch for each held thread; what belongs to the process, its
// leader asks.
struct Questions {
  struct OfThread {
    CallBatch::Place tid_address;
    CallBatch::Place alternate_stack;
    CallBatch::Place death_signal;
    size_t secure_bits = 0;
  };
  struct OfTimer {
    ProcTimer timer;
    CallBatch::Place value;
    size_t overrun = 0;
  };
  size_t first = 0;  // of the injections: that of the leader, with those of the other threads behind it
  std::vector<OfThread> threads;
  std::vector<CallBatch::Place> actions, intervals, limits;
  std::vector<OfTimer> timers;
  CallBatch::Place reaper;
  size_t program_break = 0, dumpable = 0, huge_pages_off = 0;
};
// Frozen only. Appends the batches.
Result<Questions> add_questions(const Member& member, std::vector<Injection>& injections);
// `injections` have been run, `process` has its threads.
Result<void> take_answers(const Member& member, const Questions& questions,
                          const std::vector<Injection>& injections, model::Process& process);

}  // namespace godwit::runtime
