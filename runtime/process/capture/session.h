// The implementation of Capture. members.cc follows processes as they come and go and holds their threads;
// session.cc builds snapshots; preflight.cc names what cannot be moved; dismantle.cc takes down what was.
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <vector>

#include "base/fd.h"
#include "runtime/process/capture.h"
#include "runtime/process/capture/mappings.h"
#include "runtime/process/capture/member.h"
#include "runtime/process/capture/registers.h"
#include "runtime/process/descriptors.h"

namespace godwit::runtime {

// How long a thread of the frozen container may take to stop, counted from the last one that did. It takes
// 0.1 ms as a rule, and some ms on a busy machine.
inline constexpr int64_t kStopMs = 50;
// How long one may take to answer questions.
inline constexpr int64_t kAnswerMs = 1000;

// Of the source: the smallest there is. Its batches are short, and the container pays for it.
inline constexpr uint64_t kCaptureScratchSize = 0;

class CaptureSession final : public Capture {
 public:
  CaptureSession(CaptureOptions options, std::unique_ptr<DescriptorCapture> descriptors)
      : options_(std::move(options)), descriptors_(std::move(descriptors)) {}
  ~CaptureSession() override;

  Result<std::vector<Refusal>> preflight() override;
  Result<model::Snapshot> snapshot_live() override;
  Result<void> visit_new_processes(
      const std::function<Result<void>(const CapturedProcess&, Puppet&)>& visit) override;
  Result<void> freeze() override;
  Result<model::Snapshot> snapshot_frozen_memory() override;
  Result<model::Snapshot> snapshot_frozen() override;
  Result<void> thaw() override;
  Result<void> dismantle() override;
  [[nodiscard]] std::vector<CapturedProcess> processes() const override;
  [[nodiscard]] Result<int> shared_memory_fd(uint64_t id) override;

 private:
  // Brings members_ to what runs now: parents before children, the init first.
  Result<void> refresh_members();
  [[nodiscard]] Result<std::vector<pid_t>> list_pids() const;
  void look_for_shared_memory();
  // Seizes what is not held yet; true if there was something. What waits in vfork(2) is left, and noted.
  Result<bool> seize_newcomers(std::vector<Puppet*>& fresh);
  Result<bool> seize_threads(Member& member, std::vector<Puppet*>& fresh);
  Result<void> await_stops(const std::vector<Puppet*>& fresh);
  Result<void> freeze_held();
  Result<void> freeze_running();
  Result<void> freeze_in_cgroup();
  static Result<void> let_go(Puppet& puppet);
  // Those that did not stop in time, and may have meanwhile. EAGAIN if one still has not.
  Result<void> let_stragglers_go(Deadline deadline);
  // Stops the leader of a process that runs, calls `step`, and lets it go. EAGAIN if it does not stop.
  using LeaderStep = std::function<Result<void>(Puppet&)>;
  static Result<void> with_leader(const Member& member, const LeaderStep& step);
  static Result<void> stop_leader(const Member& member, const LeaderStep& step);
  Result<void> leave();
  static Result<void> drop_scratch_of(Member& member);
  Result<void> visit(Member& member, Puppet& leader,
                     const std::function<Result<void>(const CapturedProcess&, Puppet&)>& visitor);
  Result<void> ensure_scratch(Member& member, Puppet& puppet);

  static Result<void> give_memory_back(const Member& member);

  Result<model::Process> describe(Member& member);
  Result<void> add_live_process(Member& member, model::Snapshot& snapshot);
  Result<void> add_frozen_process(Member& member, model::Snapshot& snapshot);
  Result<void> add_live_threads(const Member& member, model::Process& process);
  static Result<void> add_frozen_tids(const Member& member, model::Process& process);
  Result<void> ask_all(model::Snapshot& snapshot) const;
  Result<void> add_frozen_threads(Member& member, model::Process& process);
  Result<void> add_shared_memory(model::Snapshot& snapshot);
  Result<void> add_clocks(model::Snapshot& snapshot) const;
  Result<void> require_movable(const Member& member) const;

  void examine_process(const Member& member, std::vector<Refusal>& refusals) const;
  void examine_threads(const Member& member, std::vector<Refusal>& refusals) const;
  void examine_namespaces(const Member& member, std::vector<Refusal>& refusals) const;
  void examine_sharing(std::vector<Refusal>& refusals) const;
  void examine_tree(std::vector<Refusal>& refusals) const;
  void examine_ipc(std::vector<Refusal>& refusals) const;

  CaptureOptions options_;
  std::unique_ptr<DescriptorCapture> descriptors_;
  std::vector<std::unique_ptr<Member>> members_;
  std::vector<std::unique_ptr<Puppet>> stragglers_;
  std::optional<Error> in_vfork_;  // this freeze has met such a thread
  MappingReader mappings_;
  RestartMemory restarts_;
  bool cgroup_frozen_ = false;
  bool frozen_ = false;
  bool dismantled_ = false;
  std::optional<model::Snapshot> frozen_memory_;  // in this freeze
};

}  // namespace godwit::runtime
