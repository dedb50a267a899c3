// What /proc and plain system calls show of processes and threads from outside.
#include "runtime/process/capture/member.h"

#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <sched.h>
#include <signal.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <charconv>

#include "base/directory.h"
#include "base/fd.h"

namespace godwit::runtime {
namespace {

constexpr int kIoPriorityOfProcess = 1;  // IOPRIO_WHO_PROCESS

Result<std::string> link_of(pid_t pid, const std::string& name) {
  const std::string path = proc_path(pid, name);
  char target[PATH_MAX];
  const ssize_t length = ::readlink(path.c_str(), target, sizeof target);
  if (length < 0) return fail("read the link", path);
  return std::string(target, static_cast<size_t>(length));
}

template <typename Integer>
Result<Integer> number_in(const std::string& path, int base) {
  GODWIT_ASSIGN(const std::string text, read_file(path));
  Integer value{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value, base);
  if (error != std::errc{}) return refuse("read a number from", path, "it holds none");
  return value;
}

void read_layout(const ProcStat& stat, model::AddressSpace& memory) {
  memory.set_start_code(stat.start_code);
  memory.set_end_code(stat.end_code);
  memory.set_start_data(stat.start_data);
  memory.set_end_data(stat.end_data);
  memory.set_start_brk(stat.start_brk);
  memory.set_start_stack(stat.start_stack);
  memory.set_arg_start(stat.arg_start);
  memory.set_arg_end(stat.arg_end);
  memory.set_env_start(stat.env_start);
  memory.set_env_end(stat.env_end);
}

Result<void> read_scheduling(pid_t tid, model::Thread& thread) {
  const std::string name = "thread " + std::to_string(tid);
  cpu_set_t cpus;
  const long length = ::syscall(SYS_sched_getaffinity, tid, sizeof cpus, &cpus);
  if (length < 0) return fail("read the affinity of", name);
  // A thread that may run on every processor this host has is not bound to any.
  if (CPU_COUNT_S(static_cast<size_t>(length), &cpus) < ::sysconf(_SC_NPROCESSORS_ONLN))
    thread.set_affinity(&cpus, static_cast<size_t>(length));
  const int policy = ::sched_getscheduler(tid);
  sched_param parameters{};
  if (policy < 0 || ::sched_getparam(tid, &parameters) != 0) return fail("read the scheduling of", name);
  thread.set_scheduling_policy(static_cast<uint32_t>(policy));
  thread.set_scheduling_priority(parameters.sched_priority);
  const long io_priority = ::syscall(SYS_ioprio_get, kIoPriorityOfProcess, tid);
  if (io_priority < 0) return fail("read the I/O priority of", name);
  thread.set_io_priority(static_cast<uint32_t>(io_priority));
  GODWIT_ASSIGN(const auto slack, number_in<uint64_t>(proc_path(tid, "timerslack_ns"), 10));
  thread.set_timer_slack_ns(slack);
  return {};
}

}  // namespace

std::vector<Puppet*> Member::held() const {
  std::vector<Puppet*> puppets;
  puppets.reserve(threads.size());
  if (leader() != nullptr) puppets.push_back(leader());
  for (const auto& [tid, puppet] : threads)
    if (tid != process.host_pid) puppets.push_back(puppet.get());
  return puppets;
}

Result<ProcStat> read_stat(pid_t pid) {
  GODWIT_ASSIGN(const std::string text, read_file(proc_path(pid, "stat")));
  return parse_stat(text);
}

Result<ProcStatus> read_status(pid_t tid) {
  GODWIT_ASSIGN(const std::string text, read_file(proc_path(tid, "status")));
  return parse_status(text);
}

Result<std::vector<pid_t>> list_threads(pid_t pid) {
  const std::string path = proc_path(pid, "task");
  const Directory directory(::opendir(path.c_str()));
  if (directory == nullptr) return fail("list", path);
  std::vector<pid_t> threads;
  while (const dirent* entry = ::readdir(directory.get())) {  // NOLINT: this stream is ours alone
    const std::string_view name = entry->d_name;
    pid_t tid = 0;
    const auto [end, error] = std::from_chars(name.data(), name.data() + name.size(), tid);
    if (error == std::errc{} && end == name.data() + name.size()) threads.push_back(tid);
  }
  std::ranges::sort(threads);
  std::ranges::stable_partition(threads, [&](pid_t tid) { return tid == pid; });
  return threads;
}

Result<std::vector<pid_t>> list_tree(pid_t init) {
  std::vector<pid_t> pids{init};
  for (size_t i = 0; i < pids.size(); ++i) {
    const auto threads = list_threads(pids[i]);
    if (!threads.has_value()) continue;  // it has ended meanwhile
    for (const pid_t tid : *threads) {
      const auto text =
          read_file("/proc/" + std::to_string(pids[i]) + "/task/" + std::to_string(tid) + "/children");
      if (!text.has_value()) continue;
      std::string_view rest = *text;
      pid_t child = 0;
      for (;;) {
        const auto [end, error] = std::from_chars(rest.data(), rest.data() + rest.size(), child);
        if (error != std::errc{}) break;
        pids.push_back(child);
        rest.remove_prefix(std::min<size_t>(static_cast<size_t>(end - rest.data()) + 1, rest.size()));
      }
    }
  }
  return pids;
}

Result<void> read_process(const Member& member, pid_t init, model::Process& process) {
  const pid_t pid = member.process.host_pid;
  GODWIT_ASSIGN(const ProcStat stat, read_stat(pid));
  GODWIT_ASSIGN(const ProcStatus status, read_status(pid));
  process.set_pid(static_cast<uint32_t>(status.namespace_pids.back()));
  if (pid != init) {
    GODWIT_ASSIGN(const ProcStatus parent, read_status(stat.parent));
    process.set_parent_pid(static_cast<uint32_t>(parent.namespace_pids.back()));
  }
  if (status.namespace_process_groups.empty() || status.namespace_sessions.empty())
    return refuse("read", proc_path(pid, "status"), "it lacks NSpgid or NSsid");
  process.set_process_group(static_cast<uint32_t>(status.namespace_process_groups.back()));
  process.set_session(static_cast<uint32_t>(status.namespace_sessions.back()));
  GODWIT_ASSIGN(*process.mutable_executable(), link_of(pid, "exe"));
  GODWIT_ASSIGN(*process.mutable_working_directory(), link_of(pid, "cwd"));
  GODWIT_ASSIGN(*process.mutable_root_directory(), link_of(pid, "root"));
  process.set_umask(status.umask);
  process.set_thp_disable(status.huge_pages_off);
  GODWIT_ASSIGN(const auto oom_adjust, number_in<int32_t>(proc_path(pid, "oom_score_adj"), 10));
  process.set_oom_score_adj(oom_adjust);
  GODWIT_ASSIGN(const auto personality, number_in<uint64_t>(proc_path(pid, "personality"), 16));
  process.set_personality(personality);
  read_layout(stat, *process.mutable_memory());
  GODWIT_ASSIGN(*process.mutable_memory()->mutable_auxv(), read_file(proc_path(pid, "auxv")));
  return {};
}

Result<void> read_thread(pid_t tid, model::Thread& thread, ProcStatus& status) {
  GODWIT_ASSIGN(const ProcStat stat, read_stat(tid));
  GODWIT_ASSIGN(status, read_status(tid));
  thread.set_tid(static_cast<uint32_t>(status.namespace_pids.back()));
  // /proc/TID/stat of a thread shows the comm of that thread only under task/; comm does so everywhere.
  GODWIT_ASSIGN(std::string comm, read_file(proc_path(tid, "comm")));
  if (comm.ends_with('\n')) comm.pop_back();
  thread.set_name(comm);
  thread.mutable_credentials()->MergeFrom(status.credentials);  // the secure bits are asked elsewhere
  thread.set_seccomp_mode(status.seccomp_mode);
  thread.set_nice(stat.nice);
  GODWIT_TRY(read_scheduling(tid, thread));
  void* robust = nullptr;
  size_t length = 0;
  if (::syscall(SYS_get_robust_list, tid, &robust, &length) != 0)
    return fail("read the robust list of", "thread " + std::to_string(tid));
  thread.set_robust_list(std::bit_cast<uint64_t>(robust));
  thread.set_robust_list_length(length);
  return {};
}

}  // namespace godwit::runtime
