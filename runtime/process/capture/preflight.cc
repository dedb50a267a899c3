// What cannot be moved, each thing by name. Two things no file of the kernel shows, so they are not looked
// for: a Landlock domain, without which a process goes on at the target, and keyrings, which stay behind on
// purpose: they hold secrets of the host they were made on.
#include <elf.h>
#include <fcntl.h>
#include <linux/kcmp.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <set>
#include <thread>

#include "runtime/process/capture/session.h"

namespace godwit::runtime {
namespace {

constexpr int kSchedDeadline = 6;
constexpr int kSchedExtensible = 7;

// The identity of a namespace of a process: its inode; 0 if it cannot be read.
ino_t namespace_of(pid_t pid, const std::string& kind) {
  struct stat status {};
  return ::stat(proc_path(pid, "ns/" + kind).c_str(), &status) == 0 ? status.st_ino : 0;
}

void refuse_object(const Member& member, std::vector<Refusal>& refusals, std::string object,
                   std::string reason) {
  refusals.push_back(
      {.pid = member.process.container_pid, .object = std::move(object), .reason = std::move(reason)});
}

// Whether two processes share a resource (kcmp(2)).
bool share(pid_t one, pid_t other, int what) {
  return ::syscall(SYS_kcmp, one, other, what, 0, 0) == 0;
}

// Lines below the heading of a table of /proc/sysvipc.
bool has_entries(const std::string& text) {
  const size_t heading = text.find('\n');
  return heading != std::string::npos && heading + 1 < text.size();
}

}  // namespace

void CaptureSession::examine_process(const Member& member, std::vector<Refusal>& refusals) const {
  const pid_t pid = member.process.host_pid;
  const auto complain = [&](std::string object, std::string reason) {
    refuse_object(member, refusals, std::move(object), std::move(reason));
  };
  const auto stat = read_stat(pid);
  if (!stat.has_value()) {
    if (stat.error().code != ENOENT && stat.error().code != ESRCH)
      complain("process", stat.error().to_string());
    return;
  }
  if (stat->state == 'Z' || stat->state == 'X') {
    complain("process", "it is a zombie (or its leading thread has ended): its parent must wait for it");
    return;
  }
  if (stat->state == 'T' && !frozen_)
    complain("process", "it is stopped by a signal; continue it (SIGCONT) first");
  const auto status = read_status(pid);
  if (!status.has_value()) {
    complain("process", status.error().to_string());
    return;
  }
  if (status->tracer != 0 && !frozen_)
    complain("process", "it is traced by pid " + std::to_string(status->tracer) + "; end the debugger first");
  if (stat->terminal != 0) complain("controlling terminal", "terminals are not moved; run it without one");
  if (status->namespace_sessions.empty() || status->namespace_sessions.back() <= 0)
    complain("session", "it belongs to a session outside the container; let the init call setsid(2)");
  if (status->namespace_process_groups.empty() || status->namespace_process_groups.back() <= 0)
    complain("process group", "it belongs to a process group outside the container");
}

void CaptureSession::examine_threads(const Member& member, std::vector<Refusal>& refusals) const {
  const pid_t pid = member.process.host_pid;
  const auto complain = [&](std::string object, std::string reason) {
    refuse_object(member, refusals, std::move(object), std::move(reason));
  };
  std::array<char, EI_NIDENT> ident{};
  const auto program = open_file(proc_path(pid, "exe"), O_RDONLY);
  if (!program.has_value()) {
    if (read_stat(pid).has_value()) complain("executable", program.error().to_string());
  } else if (::pread(program->get(), ident.data(), ident.size(), 0) == static_cast<ssize_t>(ident.size()) &&
             ident[EI_CLASS] != ELFCLASS64) {
    complain("executable", "32-bit programs are not moved");
  }
  const auto threads = list_threads(pid);
  if (!threads.has_value()) return;
  for (const pid_t tid : *threads) {
    const int policy = ::sched_getscheduler(tid);
    if (policy == kSchedDeadline || policy == kSchedExtensible)
      complain("thread " + std::to_string(tid), "its scheduling policy (deadline or sched_ext) is not moved");
    const auto status = read_status(tid);
    if (status.has_value() && status->seccomp_mode == SECCOMP_MODE_STRICT)
      complain("thread " + std::to_string(tid), "strict seccomp lets it answer no questions");
  }
}

void CaptureSession::examine_namespaces(const Member& member, std::vector<Refusal>& refusals) const {
  const pid_t pid = member.process.host_pid;
  const bool is_init = pid == options_.init_pid;
  for (const char* kind : {"net", "pid", "mnt", "uts", "ipc"}) {
    const ino_t here = namespace_of(::getpid(), kind), there = namespace_of(pid, kind);
    if (there == 0) continue;  // it has ended
    if (is_init && here == there)
      refuse_object(member, refusals, std::string(kind) + " namespace",
                    "it is the host's own; give the container one of its own");
    if (!is_init && there != namespace_of(options_.init_pid, kind))
      refuse_object(member, refusals, std::string(kind) + " namespace",
                    "it is not that of the container's init");
  }
  for (const char* kind : {"pid_for_children", "time", "time_for_children", "cgroup"}) {
    const ino_t there = namespace_of(pid, kind);
    std::string base(kind);
    if (const size_t end = base.find("_for_children"); end != std::string::npos) base.resize(end);
    if (there != 0 && there != namespace_of(options_.init_pid, base))
      refuse_object(member, refusals, std::string(kind) + " namespace",
                    "it is not that of the container's init");
  }
  if (const ino_t there = namespace_of(pid, "user"); there != 0 && there != namespace_of(::getpid(), "user"))
    refuse_object(member, refusals, "user namespace", "containers with a user namespace are not moved");
}

void CaptureSession::examine_sharing(std::vector<Refusal>& refusals) const {
  constexpr std::pair<int, const char*> kShared[] = {
      {KCMP_VM, "memory"}, {KCMP_FILES, "descriptor table"}, {KCMP_FS, "working directory"}};
  for (size_t i = 0; i < members_.size(); ++i)
    for (size_t k = i + 1; k < members_.size(); ++k)
      for (const auto& [what, name] : kShared)
        if (share(members_[i]->process.host_pid, members_[k]->process.host_pid, what))
          refuse_object(*members_[k], refusals, name,
                        "shared with pid " + std::to_string(members_[i]->process.container_pid) +
                            " (clone(2), or vfork(2) just now)");
}

// Sessions and groups are made at the target by their leaders, so these must live.
void CaptureSession::examine_tree(std::vector<Refusal>& refusals) const {
  std::set<pid_t> alive;
  for (const auto& member : members_) alive.insert(member->process.container_pid);
  for (const auto& member : members_) {
    const auto status = read_status(member->process.host_pid);
    if (!status.has_value() || status->namespace_sessions.empty() || status->namespace_process_groups.empty())
      continue;
    const pid_t session = status->namespace_sessions.back(), group = status->namespace_process_groups.back();
    if (session > 0 && !alive.contains(session))
      refuse_object(*member, refusals, "session " + std::to_string(session), "its leader has ended");
    if (group > 0 && !alive.contains(group))
      refuse_object(*member, refusals, "process group " + std::to_string(group), "its leader has ended");
  }
}

// /proc/sysvipc shows the ipc namespace of the thread that reads it: one of ours goes there.
void CaptureSession::examine_ipc(std::vector<Refusal>& refusals) const {
  if (namespace_of(options_.init_pid, "ipc") == namespace_of(::getpid(), "ipc")) return;  // named already
  std::vector<std::string> reasons;
  std::thread reader([&] {
    const auto theirs = open_file(proc_path(options_.init_pid, "ns/ipc"), O_RDONLY);
    if (!theirs.has_value() || ::setns(theirs->get(), CLONE_NEWIPC) != 0) {
      reasons.emplace_back("its ipc namespace cannot be entered to look for System V objects");
      return;
    }
    for (const char* table : {"msg", "sem", "shm"}) {
      const auto text = read_file(std::string("/proc/sysvipc/") + table);
      if (!text.has_value()) {
        if (text.error().code != ENOENT) reasons.push_back(text.error().to_string());
      } else if (has_entries(*text)) {
        reasons.push_back(std::string("System V objects are not moved (") + table + ")");
      }
    }
  });
  reader.join();
  for (auto& reason : reasons)
    if (!members_.empty()) refuse_object(*members_.front(), refusals, "ipc namespace", std::move(reason));
}

Result<std::vector<Refusal>> CaptureSession::preflight() {
  GODWIT_TRY(refresh_members());
  std::vector<Refusal> refusals;
  for (const auto& member : members_) {
    examine_process(*member, refusals);
    examine_threads(*member, refusals);
    examine_namespaces(*member, refusals);
    if (!mappings_.refresh_advice(member->process.host_pid).has_value()) continue;  // it has ended
    model::AddressSpace memory;
    const auto complain = [&](const std::string& object, const std::string& reason) {
      refuse_object(*member, refusals, object, reason);
    };
    const auto read = mappings_.read(member->process.host_pid, member->scratch, frozen_, memory, complain);
    if (!read.has_value() && read_stat(member->process.host_pid).has_value())
      complain("mappings", read.error().to_string());
  }
  examine_sharing(refusals);
  examine_tree(refusals);
  examine_ipc(refusals);
  GODWIT_TRY(descriptors_->preflight(processes(), refusals));
  return refusals;
}

}  // namespace godwit::runtime
