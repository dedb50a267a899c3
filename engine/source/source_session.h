// SourceSession: the source side of one migration, from the preflight to the removal of the remains.
//
//   preflight -> prepare -> round -> round -> ... -> cutover -> commit -> conclude -> ended
//                             ^-------- transient --------'
//
// Each state is one function, which returns the next state or an error. An error before the commit rolls
// everything back: the container runs on here as if nothing had been. After the commit there is no way back:
// errors are reported, and the container is the target's.
//
// Threads: one, the tracer of the container's processes; in the frozen round others help it to scan memory,
// and one looks for connections that nobody holds. A worker process runs exactly one session.
#pragma once

#include <functional>
#include <future>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/result.h"
#include "engine/commit/store.h"
#include "engine/paths.h"
#include "engine/policy/round_policy.h"
#include "engine/protocol/peer.h"
#include "engine/protocol/worker.pb.h"
#include "engine/session/agent_channel.h"
#include "engine/session/assistant.h"
#include "engine/session/clock_sync.h"
#include "engine/session/fault.h"
#include "engine/session/priority.h"
#include "engine/session/timeline.h"
#include "runtime/container/container.h"
#include "runtime/container/freezer.h"
#include "runtime/memory/page_source.h"
#include "runtime/memory/trackers.h"
#include "runtime/network/network.h"
#include "runtime/network/parking.h"
#include "runtime/network/unheld_connections.h"
#include "runtime/process/capture.h"
#include "transport/link.h"

namespace godwit::engine {

class SourceSession {
 public:
  SourceSession(model::SourceOrder order, AgentChannel& agent);
  SourceSession(const SourceSession&) = delete;
  SourceSession& operator=(const SourceSession&) = delete;
  ~SourceSession();

  // Runs to the end; events go to the agent as they happen. The result says where the container is now.
  model::MigrationResult run();
  // It is committed, and what is left here stays as it is: the process is to end at once, without
  // destructors; its agent carries the session on.
  [[nodiscard]] bool leaves_remains() const { return committed_ && !removed_; }

 private:
  enum class State { kInvalid = 0, kPreflight, kPrepare, kRound, kCutover, kCommit, kConclude, kEnded };
  static const char* name(State state);
  Result<State> step(State state);

  // preflight.cc
  Result<State> preflight();
  Result<void> freeze_cgroup();
  Result<void> while_frozen(const std::function<Result<void>()>& step);
  Result<void> refuse_if_any(const std::vector<runtime::Refusal>& refusals);
  // prepare.cc
  Result<State> prepare();
  Result<void> make_record();
  Result<void> greet_target();
  Result<void> connect_link(const model::Welcome& welcome);
  // round.cc
  Result<State> round();
  Result<void> track_new_processes();
  Result<void> send_layout(const runtime::model::Snapshot& snapshot, const runtime::RoundPages& pages);
  Result<uint64_t> send_pages();
  Result<size_t> send_batch(uint32_t stream, Pace pace);
  Pace pace_bulk(uint64_t bytes_due, int64_t begun_us);
  Result<runtime::RoundPages> begin_pages(const runtime::model::Snapshot& snapshot);
  Result<runtime::MemoryView> view_of(const runtime::model::Snapshot& snapshot);
  Result<State> decide_next(RoundMeasurement measurement, const runtime::PageCounters& before,
                            uint64_t pages_due);
  // cutover.cc
  Result<State> cutover();
  Result<void> settle_connections();
  void begin_last_look();
  Result<void> freeze();
  Result<void> send_frozen();
  Result<uint64_t> send_frozen_pages(const runtime::model::Snapshot& layout, const runtime::MemoryView& view,
                                     SharedWork& scan);
  Result<void> send_complete(runtime::model::Snapshot snapshot, uint64_t batches);
  Result<State> retry_later(const Error& error);
  // commit.cc
  Result<State> commit();
  Result<void> write_decision();
  Result<void> hand_over_frames();
  Result<void> await_running();
  Result<State> ask_target();
  // conclude.cc
  Result<State> conclude();
  Result<void> verify();
  Result<void> remove_remains();
  Result<void> await_kept();
  void roll_back(Error& error);
  model::MigrationResult result();

  void report(model::MigrationEvent event);
  void report_state(State state, const std::string& detail = {});
  [[nodiscard]] uint64_t elapsed_us() const;

  // The order.
  const model::SourceOrder order_;
  const ContainerPaths paths_;
  AgentChannel& agent_;
  Faults faults_;
  const int64_t begun_ns_;
  const int64_t deadline_ns_;

  // The container, as found by the preflight.
  runtime::Runc runc_;
  runtime::Network network_;
  runtime::Attachment attachment_;
  std::optional<runtime::Freezer> freezer_;
  std::unique_ptr<runtime::Capture> capture_;
  runtime::TrackerChoice tracker_;
  runtime::TrackerFactory make_tracker_;

  // Made by prepare.
  std::optional<Peer> target_;
  ClockDifference clock_;
  std::unique_ptr<transport::LinkSender> link_;
  std::string link_why_;  // it is of this kind
  std::unique_ptr<runtime::ParkingLot> parking_;
  std::optional<runtime::ConnectionWatch> connections_;
  std::future<Result<void>> last_look_;
  Assistant watcher_;  // takes it
  std::optional<runtime::CpuThrottle> throttle_;
  std::optional<SessionFile> file_;  // of this session: the decision is written there
  runtime::PageSource pages_;

  // The rounds.
  std::vector<RoundMeasurement> rounds_;
  uint32_t round_ = 0;
  int64_t last_scan_us_ = 0;
  unsigned throttle_percent_ = 0;
  double container_cpus_ = 0;     // that it used before the first round
  uint64_t paused_us_ = 0;        // in this round, out of courtesy
  int64_t worked_before_us_ = 0;  // processor time of this thread, as of the last batch
  unsigned cutover_attempts_ = 0;

  // The cutover.
  runtime::model::Snapshot frozen_snapshot_;
  bool frozen_ = false;
  bool parked_ = false;
  bool committed_ = false;
  bool target_runs_ = false;
  bool removed_ = false;    // the remains
  int64_t frozen_us_ = 0;   // monotonic
  int64_t running_us_ = 0;  // monotonic of this host

  Timeline timeline_{"source"};
  std::vector<model::TimelineEntry> target_timeline_;
  uint64_t parked_frames_ = 0;
  std::vector<runtime::Refusal> refusals_;
  bool verified_ = false;
  std::string error_;
};

}  // namespace godwit::engine
