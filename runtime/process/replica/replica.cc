// The order of things: what is done in which round, and in the cutover.
#include "runtime/process/replica.h"

#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>

#include <cstdlib>

#include "base/fd.h"
#include "runtime/process/replica/member.h"
#include "runtime/process/validate.h"

namespace godwit::runtime::rebuild {
namespace {

enum class Stage { kGrowing, kComplete, kHeld, kRunning, kDestroyed };

class ProcessReplica final : public Replica {
 public:
  ProcessReplica(Members members, HostFacts facts, std::unique_ptr<DescriptorRebuild> descriptors)
      : members_(std::move(members)), facts_(std::move(facts)), descriptors_(std::move(descriptors)) {}
  ProcessReplica(const ProcessReplica&) = delete;
  ProcessReplica& operator=(const ProcessReplica&) = delete;
  // What was not held must never run; what was held waits in its frozen cgroup for whoever knows better.
  ~ProcessReplica() override {
    if (stage_ == Stage::kGrowing || stage_ == Stage::kComplete) static_cast<void>(destroy());
  }

  Result<void> enter_time_namespace(int64_t monotonic_offset_ns, int64_t boottime_offset_ns) override;
  Result<void> reconcile_memory(const model::Snapshot& snapshot) override;
  Result<void> reconcile(const model::Snapshot& snapshot) override;
  [[nodiscard]] Result<pid_t> host_pid(uint32_t container_pid) const override;
  [[nodiscard]] Result<int> shared_memory_fd(uint64_t id) const override;
  Result<void> discard(uint32_t container_pid, const std::vector<Range>& ranges) override;
  Result<void> hold() override;
  [[nodiscard]] const model::AfterCommit& after_commit() const override {
    return descriptors_->after_commit();
  }
  Faults run() override;
  Result<void> destroy() override;

 private:
  Result<void> check_stage(Stage wanted, const char* operation) const;
  Result<void> bring_memory(const model::Snapshot& snapshot);
  Result<void> bring_rest(const model::Snapshot& snapshot);
  Result<void> complete(const model::Snapshot& snapshot);
  Result<void> complete_threads(const model::Snapshot& snapshot);
  [[nodiscard]] Result<CallBatch> completion_of(const model::Process& wanted,
                                                const model::Thread& thread) const;
  Result<void> become(const model::Snapshot& snapshot);
  // After a failure nobody knows what the processes are like: only destroy() is left.
  Result<void> note(Result<void> outcome);

  Members members_;
  HostFacts facts_;
  std::unique_ptr<DescriptorRebuild> descriptors_;
  model::Snapshot shared_memory_;  // the list of shared memory of the last snapshot, nothing else
  Stage stage_ = Stage::kGrowing;
  bool failed_ = false;
};

Result<void> ProcessReplica::check_stage(Stage wanted, const char* operation) const {
  if (failed_) return refuse(operation, "replica", "an earlier step has failed; it can only be destroyed");
  if (stage_ != wanted) return refuse(operation, "replica", "not in this order");
  return {};
}

Result<void> ProcessReplica::note(Result<void> outcome) {
  if (!outcome.has_value()) failed_ = true;
  return outcome;
}

Result<void> ProcessReplica::enter_time_namespace(int64_t monotonic_offset_ns, int64_t boottime_offset_ns) {
  GODWIT_TRY(check_stage(Stage::kGrowing, "enter a time namespace"));
  if (monotonic_offset_ns == 0 && boottime_offset_ns == 0) return {};
  Member& init = *members_.front();
  if (members_.size() != 1 || init.threads.size() != 1) {
    return refuse("enter a time namespace", "replica", "it has grown already");
  }
  return note(join_time_namespace(init, *descriptors_, monotonic_offset_ns, boottime_offset_ns));
}

Result<void> ProcessReplica::reconcile_memory(const model::Snapshot& snapshot) {
  GODWIT_TRY(check_stage(Stage::kGrowing, "reconcile memory"));
  GODWIT_TRY(validate_memory(snapshot));
  return note(bring_memory(snapshot));
}

// Processes first: while they are bare, a fork copies nothing.
Result<void> ProcessReplica::bring_memory(const model::Snapshot& snapshot) {
  shared_memory_.mutable_shared_memory()->CopyFrom(snapshot.shared_memory());
  GODWIT_TRY(reconcile_tree(members_, snapshot));
  for (const model::Process& process : snapshot.processes()) {
    GODWIT_TRY(reconcile_address_space(*find_member(members_, process.pid()), process, snapshot, facts_,
                                       *descriptors_));
  }
  return {};
}

Result<void> ProcessReplica::reconcile(const model::Snapshot& snapshot) {
  GODWIT_TRY(check_stage(Stage::kGrowing, "reconcile"));
  GODWIT_TRY(validate(snapshot));
  return note(bring_rest(snapshot));
}

Result<void> ProcessReplica::bring_rest(const model::Snapshot& snapshot) {
  GODWIT_TRY(bring_memory(snapshot));
  for (const model::Process& process : snapshot.processes()) {
    Member& member = *find_member(members_, process.pid());
    GODWIT_TRY(reconcile_threads(member, process));
    if (!snapshot.frozen()) GODWIT_TRY(set_oom_score(member.host_pid, process.oom_score_adj()));
  }
  if (!snapshot.frozen()) return descriptors_->prepare(snapshot);
  GODWIT_TRY(complete(snapshot));
  stage_ = Stage::kComplete;
  return {};
}

Result<void> ProcessReplica::complete(const model::Snapshot& snapshot) {
  std::vector<ReplicaProcess> processes;
  for (const auto& member : members_) processes.push_back(member->process());
  GODWIT_TRY(descriptors_->complete(snapshot, processes));
  GODWIT_TRY(complete_threads(snapshot));
  return become(snapshot);
}

namespace {

const model::Thread* find_thread(const model::Process& process, uint32_t tid) {
  for (const model::Thread& thread : process.threads())
    if (thread.tid() == tid) return &thread;
  return nullptr;
}

}  // namespace

// The leader's batch carries what belongs to the process, and goes first: it is what needs privileges.
Result<void> ProcessReplica::complete_threads(const model::Snapshot& snapshot) {
  std::vector<Injection> leaders, others;
  for (const model::Process& process : snapshot.processes()) {
    const Member& member = *find_member(members_, process.pid());
    GODWIT_TRY(set_oom_score(member.host_pid, process.oom_score_adj()));
    for (const MemberThread& thread : member.threads) {
      const model::Thread* wanted = find_thread(process, thread.tid);
      if (wanted == nullptr)
        return refuse("complete", member.name(), "a thread that the snapshot does not have");
      GODWIT_TRY(set_scheduling(thread.puppet->tid(), *wanted));
      GODWIT_ASSIGN(CallBatch batch, completion_of(process, *wanted));
      (thread.tid == process.pid() ? leaders : others)
          .push_back({.puppet = thread.puppet.get(), .batch = std::move(batch), .whose = member.name()});
    }
  }
  GODWIT_TRY(Puppet::run_together(leaders));
  return Puppet::run_together(others);
}

Result<CallBatch> ProcessReplica::completion_of(const model::Process& wanted,
                                                const model::Thread& thread) const {
  CallBatch batch;
  const bool leader = thread.tid() == wanted.pid();
  const bool same_filters = have_same_filters(wanted);
  if (leader) {
    set_signal_actions(batch, wanted);
    set_process_attributes(batch, wanted);
    GODWIT_TRY(set_timers(batch, wanted, facts_));
    queue_signals(batch, wanted.pending_signals(), wanted.pid(), 0);
  }
  set_thread_attributes(batch, thread);
  queue_signals(batch, thread.pending_signals(), wanted.pid(), thread.tid());
  if (leader || !same_filters) {
    const bool with_siblings = same_filters && wanted.threads_size() > 1;
    GODWIT_TRY(set_seccomp(batch, thread, facts_, with_siblings));
  }
  if (leader) set_limits(batch, wanted);
  set_credentials(batch, thread, facts_);
  // A change of credentials takes it away; 2 is the kernel's own and cannot be asked for.
  batch.call(SYS_prctl, {PR_SET_DUMPABLE, wanted.dumpable() == 1 ? 1 : 0, 0, 0, 0}, "set dumpable");
  return batch;
}

// No more calls from here on: the scratches go, on the way to the registers that stay. All threads end in a
// stop that they leave as if it had never been, whoever lets them go.
Result<void> ProcessReplica::become(const model::Snapshot& snapshot) {
  std::vector<Puppet*> leaders, others;
  for (const model::Process& process : snapshot.processes()) {
    for (const MemberThread& thread : find_member(members_, process.pid())->threads) {
      GODWIT_TRY(set_registers(*thread.puppet, process, *find_thread(process, thread.tid), facts_));
      (thread.tid == process.pid() ? leaders : others).push_back(thread.puppet.get());
    }
  }
  return Puppet::settle_together(leaders, others);
}

Result<pid_t> ProcessReplica::host_pid(uint32_t container_pid) const {
  const Member* member = find_member(members_, container_pid);
  if (member == nullptr) return refuse("find", "pid " + std::to_string(container_pid), "not in the replica");
  return member->host_pid;
}

Result<int> ProcessReplica::shared_memory_fd(uint64_t id) const {
  for (const model::SharedMemory& memory : shared_memory_.shared_memory()) {
    if (memory.id() == id) return descriptors_->shared_memory_fd(shared_memory_, id);
  }
  return refuse("find", "shared memory " + std::to_string(id), "not in the snapshot");
}

Result<void> ProcessReplica::discard(uint32_t container_pid, const std::vector<Range>& ranges) {
  GODWIT_TRY(check_stage(Stage::kGrowing, "discard pages"));
  Member* member = find_member(members_, container_pid);
  if (member == nullptr)
    return refuse("discard pages", "pid " + std::to_string(container_pid), "no such process");
  CallBatch batch;
  for (const Range& range : ranges) {
    if (((range.start | range.end) & kPageMask) != 0 || range.start >= range.end ||
        !covers(member->mappings, range.start, range.end)) {
      return refuse("discard pages", member->name(), "a range outside of its mappings");
    }
    constexpr int kDontNeedLocked =
        24;  // MADV_DONTNEED_LOCKED (5.18): plain MADV_DONTNEED refuses mlocked pages
    batch.call(SYS_madvise, {range.start, range.end - range.start, kDontNeedLocked}, "discard pages");
  }
  return note(member->leader().run(batch));
}

Result<void> ProcessReplica::hold() {
  GODWIT_TRY(check_stage(Stage::kComplete, "hold"));
  for (auto& member : members_) {
    for (MemberThread& thread : member->threads) GODWIT_TRY(note(thread.puppet->kill_with_tracer(false)));
  }
  stage_ = Stage::kHeld;
  return {};
}

Faults ProcessReplica::run() {
  Faults faults;
  if (stage_ != Stage::kComplete && stage_ != Stage::kHeld) {
    note_fault(faults, check_stage(Stage::kHeld, "run"));
    return faults;
  }
  stage_ = Stage::kRunning;
  // Sockets before threads: in repair mode they read and write nothing.
  faults = descriptors_->finish();
  for (auto& member : members_)
    for (MemberThread& thread : member->threads) note_fault(faults, thread.puppet->release());
  note_faults(faults, descriptors_->clean_up());
  return faults;
}

Result<void> ProcessReplica::destroy() {
  if (stage_ == Stage::kRunning) return refuse("destroy", "replica", "it runs; it is the container now");
  stage_ = Stage::kDestroyed;
  Faults faults = descriptors_->clean_up();
  // Children first, so that each is waited for before its parent goes.
  for (auto member = members_.rbegin(); member != members_.rend(); ++member)
    if (!(*member)->threads.empty()) note_fault(faults, kill_member(**member));
  members_.clear();
  if (faults.empty()) return {};
  return std::unexpected(std::move(faults.front()));
}

// Room for any descriptor number and any amount of memory, until the snapshot's own limits are set: without
// bounds where this process may grant that (CAP_SYS_RESOURCE), else up to the placeholder's hard limits.
Result<void> lift_limits(pid_t pid) {
  GODWIT_ASSIGN(const std::string most, read_file("/proc/sys/fs/nr_open"));
  const rlim64_t files = std::strtoull(most.c_str(), nullptr, 10);
  for (const auto resource : {RLIMIT_NOFILE, RLIMIT_MEMLOCK, RLIMIT_AS, RLIMIT_DATA, RLIMIT_STACK,
                              RLIMIT_NPROC, RLIMIT_SIGPENDING}) {
    const rlim64_t value = resource == RLIMIT_NOFILE ? files : RLIM64_INFINITY;
    rlimit64 limit{.rlim_cur = value, .rlim_max = value};
    if (::prlimit64(pid, resource, &limit, nullptr) == 0) continue;
    if (errno == EPERM && ::prlimit64(pid, resource, nullptr, &limit) == 0) {
      limit.rlim_cur = limit.rlim_max;
      if (::prlimit64(pid, resource, &limit, nullptr) == 0) continue;
    }
    return fail("lift the resource limits of", "pid " + std::to_string(pid));
  }
  return {};
}

// Session of a process in its own pid namespace: the last number of NSsid (proc(5)).
bool leads_its_session(const std::string& status) {
  const size_t line = status.find("\nNSsid:");
  if (line == std::string::npos) return false;
  return status.substr(line + 1, status.find('\n', line + 1) - line - 1).ends_with("\t1");
}

}  // namespace

static Result<std::unique_ptr<Replica>> adopt_placeholder(ReplicaOptions options) {
  const pid_t pid = options.placeholder_pid;
  GODWIT_ASSIGN(auto descriptors, DescriptorRebuild::open(pid, std::move(options.channel),
                                                          options.placeholder_channel_fd, options.log_path));
  GODWIT_TRY(lift_limits(pid));
  GODWIT_ASSIGN(auto puppet, Puppet::seize(pid, replica_trace_options()));
  GODWIT_TRY(puppet->wait_stopped());
  GODWIT_TRY(puppet->make_scratch());
  GODWIT_ASSIGN(HostFacts facts, read_host_facts(*puppet));
  GODWIT_ASSIGN(const std::string status, read_file("/proc/" + std::to_string(pid) + "/status"));
  if (status.find("\nThreads:\t1\n") == std::string::npos) {
    return refuse("adopt placeholder", "pid " + std::to_string(pid), "it has more than one thread");
  }
  auto init = std::make_unique<Member>();
  init->pid = 1;
  init->host_pid = pid;
  // runc makes a container's init the leader of a session; one that is not becomes it in reconcile_tree.
  init->session = init->process_group = leads_its_session(status) ? 1 : 0;
  init->threads.push_back({1, std::move(puppet)});
  Members members;
  members.push_back(std::move(init));
  return std::make_unique<ProcessReplica>(std::move(members), std::move(facts), std::move(descriptors));
}

}  // namespace godwit::runtime::rebuild

namespace godwit::runtime {

Result<std::unique_ptr<Replica>> Replica::adopt(ReplicaOptions options) {
  return rebuild::adopt_placeholder(std::move(options));
}

}  // namespace godwit::runtime
