// TargetSession: the target side of one migration, from the source's greeting, which the agent has read and
// admitted, to a running container.
//
//   greet -> prepare -> round -> round -> ... -> frozen -> held -> run -> aftercare -> ended
//
// An error before "held" removes everything that was made. In "held" the replica is complete and stopped in a
// frozen cgroup; if the connection breaks there, the source's agent is asked what was decided. After the
// commit the container is this host's, whatever happens.
//
// Threads: one (the tracer of the replica), its assistant, and the page writers. A worker process runs
// exactly one session.
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/fd.h"
#include "base/result.h"
#include "engine/commit/machine.h"
#include "engine/commit/store.h"
#include "engine/paths.h"
#include "engine/protocol/peer.h"
#include "engine/protocol/worker.pb.h"
#include "engine/session/agent_channel.h"
#include "engine/session/assistant.h"
#include "engine/session/fault.h"
#include "engine/session/timeline.h"
#include "engine/target/page_writers.h"
#include "engine/target/replica_digest.h"
#include "runtime/container/container.h"
#include "runtime/container/freezer.h"
#include "runtime/memory/page_sink.h"
#include "runtime/network/loopback_gate.h"
#include "runtime/network/network.h"
#include "runtime/network/parking.h"
#include "runtime/process/replica.h"
#include "transport/link.h"
#include "transport/link_choice.h"

namespace godwit::engine {

class TargetSession {
 public:
  TargetSession(model::TargetOrder order, Fd connection, AgentChannel& agent);
  TargetSession(const TargetSession&) = delete;
  TargetSession& operator=(const TargetSession&) = delete;
  ~TargetSession();

  // Runs to the end. An error means that the container is not here, or (leaves_replica()) that it is not
  // known whether it will be.
  Result<void> run();
  // A complete replica is held, or runs already, and this process is to end at once, without destructors; its
  // agent carries the session on.
  [[nodiscard]] bool leaves_replica() const { return promised_; }

 private:
  enum class State { kInvalid = 0, kGreet, kPrepare, kRound, kFrozen, kHeld, kRun, kAftercare, kEnded };
  Result<State> step(State state);

  // greet.cc
  Result<State> greet();
  Result<void> listen_for_link();
  // make_replica.cc
  Result<State> prepare();
  Result<void> make_record();
  Result<void> make_container();
  Result<void> enter_time_namespace();
  Result<void> accept_link();
  // receive.cc
  Result<State> round();
  Result<State> take_layout(const model::Layout& layout);
  Result<State> finish_round(const model::Layout& layout);
  Result<void> apply_discards(const model::Layout& layout);
  void begin_may_run();
  Result<void> complete_replica(const runtime::model::Snapshot& snapshot);
  Result<void> set_spaces(const runtime::model::Snapshot& snapshot);
  Result<State> frozen();
  // run.cc
  Result<State> held();
  Result<Evidence> await_decision();
  Result<State> follow(const Move& move);
  Result<State> let_run();
  Result<void> release();
  Result<void> confirm_kept();
  Result<void> take_frame(const model::Frame& frame);
  Result<State> aftercare();
  Result<void> answer_verify(const model::Verify& verify);
  // target_session.cc
  [[nodiscard]] Error explain(Error error) const;
  void roll_back(const Error& error);

  [[nodiscard]] runtime::NetworkSpec network_spec() const;

  const model::TargetOrder order_;
  AgentChannel& agent_;
  Faults faults_;
  Peer source_;
  int64_t deadline_ns_ = 0;

  model::Hello hello_;
  std::optional<SessionFile> file_;  // of this session
  ContainerPaths paths_;

  // What was made, in the order of making.
  runtime::Runc runc_;
  runtime::Network network_;
  std::optional<runtime::Attachment> attachment_;
  bool container_made_ = false;
  Fd plan_;  // what is left to do after the decision, to be written in the cutover
  std::optional<runtime::Freezer> freezer_;
  std::string oom_kills_path_;
  std::optional<runtime::Port> port_;
  std::optional<runtime::LoopbackGate> loopback_;  // shut until all sockets are made
  std::unique_ptr<runtime::Replica> replica_;
  std::unique_ptr<runtime::FrameDelivery> delivery_;
  std::optional<runtime::Announcer> announcer_;
  std::optional<transport::LinkListener> listener_;  // until the link is there
  std::unique_ptr<transport::LinkReceiver> link_;
  runtime::PageSink sink_;
  std::unique_ptr<PageWriters> writers_;

  // The cutover.
  std::future<Result<void>> arming_;     // likewise, beside the release
  std::future<Result<void>> may_run_;    // is being written beside the reconciliation
  std::optional<ReplicaDigest> digest_;  // if the memory is to be verified
  std::vector<runtime::SpaceDigest> digests_;
  Assistant assistant_;
  Assistant scribe_;       // writes the session's record while the session goes on
  bool promised_ = false;  // Ready may have been said: only the source knows what becomes of it
  bool committed_ = false;
  Timeline timeline_{"target"};
};

}  // namespace godwit::engine
