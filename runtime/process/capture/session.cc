// Snapshots: the order in which things are read, and what a round may leave out.
#include "runtime/process/capture/session.h"

#include <fcntl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>

#include "base/clock.h"

namespace godwit::runtime {
namespace {

std::string name_of(const Member& member) {
  return "pid " + std::to_string(member.process.container_pid);
}

void nothing_refused(const std::string&, const std::string&) {}

}  // namespace

Result<std::unique_ptr<Capture>> Capture::open(CaptureOptions options) {
  if (options.init_pid <= 0) return refuse("capture", "a container", "it has no init process");
  if (bool(options.freeze_cgroup) != bool(options.thaw_cgroup))
    return refuse("capture", "a container", "a freezer needs both directions");
  GODWIT_ASSIGN(auto descriptors, DescriptorCapture::open(options.init_pid, options.log_path));
  return std::make_unique<CaptureSession>(std::move(options), std::move(descriptors));
}

Result<model::Process> CaptureSession::describe(Member& member) {
  model::Process process;
  GODWIT_TRY(read_process(member, options_.init_pid, process));
  GODWIT_TRY(mappings_.read(member.process.host_pid, member.scratch, frozen_, *process.mutable_memory(),
                            nothing_refused));
  return process;
}

Result<void> CaptureSession::add_live_threads(const Member& member, model::Process& process) {
  GODWIT_ASSIGN(const auto tids, list_threads(member.process.host_pid));
  for (const pid_t tid : tids) {
    model::Thread thread;
    ProcStatus status;
    // A thread that ends while it is read is simply not there; a reader of live snapshots expects that.
    if (read_thread(tid, thread, status).has_value()) *process.add_threads() = std::move(thread);
  }
  return {};
}

// What the threads themselves have to be asked: all of all processes at the same time.
Result<void> CaptureSession::ask_all(model::Snapshot& snapshot) const {
  // Signals first: nothing may run in a process before its queues are read.
  for (size_t i = 0; i < members_.size(); ++i)
    GODWIT_TRY(read_pending_signals(*members_[i], *snapshot.mutable_processes(static_cast<int>(i))));
  std::vector<Injection> injections;
  std::vector<Questions> questions;
  for (const auto& member : members_) {
    GODWIT_ASSIGN(Questions asked, add_questions(*member, injections));
    questions.push_back(std::move(asked));
  }
  GODWIT_TRY(Puppet::run_together(injections));
  for (size_t i = 0; i < members_.size(); ++i)
    GODWIT_TRY(take_answers(*members_[i], questions[i], injections,
                            *snapshot.mutable_processes(static_cast<int>(i))));
  return {};
}

Result<void> CaptureSession::add_frozen_threads(Member& member, model::Process& process) {
  int index = 0;
  for (Puppet* puppet : member.held()) {
    auto& thread = *process.mutable_threads(index++);
    ProcStatus status;
    GODWIT_TRY(read_thread(puppet->tid(), thread, status));
    GODWIT_TRY(read_held_thread(member, *puppet, status, thread));
    const user_regs_struct registers = restarts_.resumable(puppet->tid(), puppet->registers());
    thread.set_general_registers(&registers, sizeof registers);
  }
  return {};
}

// What may have changed since the preflight and would be lost silently.
Result<void> CaptureSession::require_movable(const Member& member) const {
  std::vector<Refusal> refusals;
  // A child that ended just now: its parent will have waited for it when one looks again (EAGAIN).
  if (member.leader() == nullptr)
    return fail("capture", name_of(member), EAGAIN, "it is a zombie, or its leader has ended");
  examine_process(member, refusals);
  if (refusals.empty()) return {};
  return refuse("capture", name_of(member) + " " + refusals.front().object, refusals.front().reason);
}

// The tids alone: they are what the target must keep free.
Result<void> CaptureSession::add_frozen_tids(const Member& member, model::Process& process) {
  for (const Puppet* puppet : member.held()) {
    GODWIT_ASSIGN(const ProcStatus status, read_status(puppet->tid()));
    process.add_threads()->set_tid(static_cast<uint32_t>(status.namespace_pids.back()));
  }
  return {};
}

namespace {

// /proc shows where the heap ends, rounded up to pages; the complete frozen snapshot asks for the byte.
void guess_break(model::AddressSpace& memory) {
  memory.set_brk(memory.start_brk());
  for (const auto& mapping : memory.mappings())
    if (mapping.start() <= memory.start_brk() && memory.start_brk() < mapping.end())
      memory.set_brk(mapping.end());
}

bool has_leader(const model::Process& process) {
  return !process.threads().empty() && process.threads(0).tid() == process.pid();
}

// One that is ending loses its memory and links first, its place in /proc last.
bool is_ending(const Error& error) {
  return error.code == ENOENT || error.code == ESRCH;
}

}  // namespace

// What ends meanwhile is left out.
Result<void> CaptureSession::add_live_process(Member& member, model::Snapshot& snapshot) {
  if (!mappings_.refresh_advice(member.process.host_pid)) return {};
  auto process = describe(member);
  if (!process && is_ending(process.error())) return {};
  GODWIT_TRY(process);
  if (const auto listed = add_live_threads(member, *process); !listed) {
    if (is_ending(listed.error())) return {};
    return listed;
  }
  guess_break(*process->mutable_memory());
  if (has_leader(*process)) *snapshot.add_processes() = *std::move(process);
  return {};
}

Result<void> CaptureSession::add_frozen_process(Member& member, model::Snapshot& snapshot) {
  GODWIT_TRY(require_movable(member));
  GODWIT_TRY(ensure_scratch(member, *member.leader()));
  auto process = describe(member);
  if (process) {
    auto listed = add_frozen_tids(member, *process);
    if (!listed) process = std::unexpected(std::move(listed).error());
  }
  if (!process && is_ending(process.error())) return fail("capture", name_of(member), EAGAIN, "it is ending");
  GODWIT_TRY(process);
  guess_break(*process->mutable_memory());
  if (!has_leader(*process)) return fail("capture", name_of(member), EAGAIN, "its leading thread is ending");
  *snapshot.add_processes() = *std::move(process);
  return {};
}

// The one list of shared memory of a round, live or frozen: what descriptors lead to, mapped or not, and what
// is mapped and open no more.
Result<void> CaptureSession::add_shared_memory(model::Snapshot& snapshot) {
  mappings_.end_round();
  GODWIT_TRY(descriptors_->capture_memory(processes(), frozen_, snapshot));
  for (const auto& [id, object] : mappings_.shared()) {
    if (std::ranges::any_of(snapshot.shared_memory(), [&](const auto& known) { return known.id() == id; }))
      continue;
    GODWIT_TRY(
        read_shared_memory(object.fd.get(), id, object.memfd, object.name, *snapshot.add_shared_memory()));
  }
  return {};
}

Result<void> CaptureSession::add_clocks(model::Snapshot& snapshot) const {
  auto& clocks = *snapshot.mutable_clocks();
  int64_t offsets[2] = {};  // monotonic, boottime
  const std::string path = proc_path(options_.init_pid, "timens_offsets");
  if (const auto text = read_file(path); text.has_value()) {
    long long seconds[2] = {}, nanoseconds[2] = {};
    if (std::sscanf(text->c_str(), "monotonic %lld %lld\nboottime %lld %lld", &seconds[0], &nanoseconds[0],
                    &seconds[1], &nanoseconds[1]) != 4)
      return refuse("parse", path, "not as time_namespaces(7) describes it");
    for (int i = 0; i < 2; ++i) offsets[i] = seconds[i] * 1'000'000'000 + nanoseconds[i];
  } else if (text.error().code != ENOENT) {
    return std::unexpected(text.error());
  }
  clocks.set_monotonic_offset_ns(offsets[0]);
  clocks.set_boottime_offset_ns(offsets[1]);
  clocks.set_monotonic_ns(clock_ns(CLOCK_MONOTONIC) + offsets[0]);
  clocks.set_boottime_ns(clock_ns(CLOCK_BOOTTIME) + offsets[1]);
  GODWIT_ASSIGN(auto boot, read_file("/proc/sys/kernel/random/boot_id"));
  if (boot.ends_with('\n')) boot.pop_back();
  clocks.set_boot_id(boot);
  return {};
}

Result<model::Snapshot> CaptureSession::snapshot_live() {
  if (frozen_) return refuse("take a live snapshot of", "the container", "it is frozen");
  GODWIT_TRY(refresh_members());
  model::Snapshot snapshot;
  mappings_.begin_round();
  for (auto& member : members_) GODWIT_TRY(add_live_process(*member, snapshot));
  GODWIT_TRY(add_shared_memory(snapshot));
  GODWIT_TRY(add_clocks(snapshot));
  GODWIT_TRY(descriptors_->capture_live(processes(), snapshot));
  return snapshot;
}

Result<model::Snapshot> CaptureSession::snapshot_frozen_memory() {
  if (!frozen_) return refuse("take a frozen snapshot of", "the container", "it runs");
  model::Snapshot snapshot;
  snapshot.set_frozen(true);
  mappings_.begin_round();
  for (auto& member : members_) GODWIT_TRY(add_frozen_process(*member, snapshot));
  GODWIT_TRY(add_shared_memory(snapshot));
  frozen_memory_ = snapshot;
  GODWIT_TRY(add_clocks(*frozen_memory_));
  // Now rather than with the rest: a thread that is woken to answer may be put behind whoever reads pages by
  // then, and wait there for milliseconds.
  GODWIT_TRY(ask_all(*frozen_memory_));
  return snapshot;
}

// Nothing moves between the two: what the first has read is not read again.
Result<model::Snapshot> CaptureSession::snapshot_frozen() {
  if (!frozen_memory_) GODWIT_TRY(snapshot_frozen_memory());
  model::Snapshot snapshot = *std::move(frozen_memory_);
  frozen_memory_.reset();
  for (size_t i = 0; i < members_.size(); ++i) {
    model::Process& process = *snapshot.mutable_processes(static_cast<int>(i));
    GODWIT_TRY(add_frozen_threads(*members_[i], process));
  }
  std::vector<FrozenProcess> frozen;
  frozen.reserve(members_.size());
  for (auto& member : members_) frozen.push_back({.process = member->process, .leader = member->leader()});
  GODWIT_TRY(descriptors_->capture_frozen(frozen, snapshot));
  return snapshot;
}

Result<int> CaptureSession::shared_memory_fd(uint64_t id) {
  const auto mapped = mappings_.shared().find(id);
  return mapped != mappings_.shared().end() ? mapped->second.fd.get() : descriptors_->shared_memory_fd(id);
}

}  // namespace godwit::runtime
