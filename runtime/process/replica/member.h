// One process of the replica, and what all files of this folder share. Internal to the folder, which has a
// namespace of its own: the source side has other things of the same names.
//
// Threads: the tracer thread.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/result.h"
#include "runtime/process/descriptors.h"
#include "runtime/process/puppet.h"
#include "runtime/process/replica/address_map.h"
#include "runtime/process/snapshot.pb.h"

namespace godwit::runtime::rebuild {

struct MemberThread {
  uint32_t tid = 0;  // in the container
  std::unique_ptr<Puppet> puppet;
};

// What is known about a process because we made it so; never read back from it.
struct Member {
  uint32_t pid = 0;  // in the container, like all but host_pid
  uint32_t parent = 0;
  uint32_t session = 0;
  uint32_t process_group = 0;
  pid_t host_pid = 0;
  std::vector<MemberThread> threads;  // the leader first

  bool bare = false;  // nothing is mapped but the scratch and `mappings`
  AddressMap mappings;
  AddressRange vdso;                   // with the vvar mappings before it; empty: none
  std::string executable;              // as last set; empty: still the placeholder
  std::optional<bool> huge_pages_off;  // as last set

  [[nodiscard]] Puppet& leader() const { return *threads.front().puppet; }
  [[nodiscard]] ReplicaProcess process() const { return {pid, host_pid, threads.front().puppet.get()}; }
  [[nodiscard]] std::string name() const { return "pid " + std::to_string(pid); }
};

// The processes of the replica in the order they were made: parents before children, init first.
using Members = std::vector<std::unique_ptr<Member>>;

[[nodiscard]] Member* find_member(const Members& members, uint32_t pid);

// What was found out once, about this host and the placeholder.
struct HostFacts {
  std::vector<std::string> seccomp_filters;  // that the placeholder runs under, oldest first
  uint64_t extended_state_size = 0;          // bytes of NT_X86_XSTATE
  uint64_t extended_features = 0;            // XCR0
  uint64_t vvar_size = 0;                    // from the start of the first [vvar*] mapping to the vdso
  uint64_t vdso_size = 0;
  uint64_t capabilities = 0;             // that the placeholder is permitted, and so can pass on
  bool timer_ids_can_be_chosen = false;  // prctl(PR_TIMER_CREATE_RESTORE_IDS)
};
Result<HostFacts> read_host_facts(Puppet& placeholder);

// The ptrace options of every thread of the replica.
[[nodiscard]] uint64_t replica_trace_options();

// tree.cc: creates and removes processes, so that exactly those of the snapshot exist, with their parents,
// sessions and process groups.
Result<void> reconcile_tree(Members& members, const model::Snapshot& snapshot);
// One injected clone3(2) with the given pid in the container (0: any); the new process, stopped.
Result<std::unique_ptr<Puppet>> spawn(Puppet& creator, uint32_t pid);

// kill.cc: kills a process, and takes the exit statuses of all its threads as their tracer; its parent still
// has to wait for it.
Result<void> kill_member(Member& member);
Result<void> kill_process(pid_t host_pid);

// threads.cc
Result<void> reconcile_threads(Member& member, const model::Process& wanted);

// address_space.cc: brings mappings (and the executable) to the snapshot.
Result<void> reconcile_address_space(Member& member, const model::Process& wanted,
                                     const model::Snapshot& snapshot, const HostFacts& facts,
                                     DescriptorRebuild& descriptors);
// One call that sets all of struct mm_struct's addresses; exe_fd -1: the executable stays.
void set_memory_layout(CallBatch& batch, const model::AddressSpace& memory, int exe_fd);

// One file per topic; each adds calls to the batch that a thread of the process executes.
void set_signal_actions(CallBatch& batch, const model::Process& wanted);
void queue_signals(CallBatch& batch, const google::protobuf::RepeatedPtrField<model::PendingSignal>& pending,
                   uint32_t pid, uint32_t tid);
Result<void> set_timers(CallBatch& batch, const model::Process& wanted, const HostFacts& facts);
void set_process_attributes(CallBatch& batch, const model::Process& wanted);
void set_thread_attributes(CallBatch& batch, const model::Thread& wanted);
// Leaves the thread with the privileges of the snapshot; nothing that needs more can follow.
void set_credentials(CallBatch& batch, const model::Thread& wanted, const HostFacts& facts);
// `with_siblings`: for all threads of the process at once (they have the same filters).
Result<void> set_seccomp(CallBatch& batch, const model::Thread& wanted, const HostFacts& facts,
                         bool with_siblings);
[[nodiscard]] bool have_same_filters(const model::Process& wanted);

// outside.cc: what is set from outside, without a call injected.
Result<void> set_scheduling(pid_t host_tid, const model::Thread& wanted);
Result<void> set_oom_score(pid_t host_pid, int32_t score);
void set_limits(CallBatch& batch, const model::Process& wanted);
Result<void> set_registers(Puppet& puppet, const model::Process& process, const model::Thread& wanted,
                           const HostFacts& facts);

// time_namespace.cc
Result<void> join_time_namespace(Member& placeholder, DescriptorRebuild& descriptors, int64_t monotonic_ns,
                                 int64_t boottime_ns);

}  // namespace godwit::runtime::rebuild
