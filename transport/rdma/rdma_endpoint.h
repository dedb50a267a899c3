// RdmaEndpoint: what both ends of an RDMA link have: a protection domain, a registered ring, one completion
// queue, and a queue pair for each stream. It posts and reports; what it means is the sender's and
// receiver's.
//
// The attributes, and why:
//   acknowledgement timeout  4.096 us x 2^17 = 537 ms, 6 retries: a peer that does not answer ends the link
//       after 3.8 s (an adapter may take up to four times as long). A lost packet in the middle of a message
//       is asked for at once; only the last one of a burst costs the timeout. Six, not seven, since soft-RoCE
//       takes seven for "for ever", which the specification means for the next attribute only.
//   receiver-not-ready       3 retries. It never happens (wire.h): a peer that is not ready is broken, and
//       must not be waited for without end.
//   RDMA READ and atomics    none, at either end: no resources for them, no permission.
//   path MTU, GID, traffic class, device: the connection manager's choice, from the addresses of the two ends
//       and the interface's MTU.
//   access                   the source's ring can be read by its own adapter only; the target's be written
//       by its peer, over this protection domain's queue pairs only.
//
// Threads: post_* and reap() one at a time for each stream's queue pair; sleep() one at a time.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/result.h"
#include "transport/link.h"
#include "transport/rdma/completion_queue.h"
#include "transport/rdma/connection.h"
#include "transport/rdma/registered_ring.h"
#include "transport/rdma/wire.h"

namespace godwit::transport {

inline constexpr uint8_t kAckTimeout = 17;
inline constexpr uint8_t kRetries = 6;
inline constexpr uint8_t kReceiverNotReadyRetries = 3;
// After so long without a completion an end asks by an empty write whether the other one lives.
inline constexpr int64_t kProbeNs = 1'000'000'000;
// So long is polled before a wait sleeps: longer than a round trip between two adapters, shorter than what a
// sleeping thread takes to wake up.
inline constexpr int64_t kSpinNs = 20'000;

// What a completion is about: the wr_id of posted work.
enum class WorkKind : uint8_t { kInvalid = 0, kReceive, kBatch, kMessage, kProbe };
struct Work {
  WorkKind kind = WorkKind::kInvalid;
  uint8_t stream = 0;
  uint8_t slot = 0;  // kBatch only
};
[[nodiscard]] Work work_of(const ibv_wc& completion);

class RdmaEndpoint {
 public:
  enum class Side : uint8_t { kSource, kTarget };
  // On the device that `id` is bound to.
  static Result<std::unique_ptr<RdmaEndpoint>> create(const rdma_cm_id* id, const LinkOptions& options,
                                                      Side side);
  RdmaEndpoint(const RdmaEndpoint&) = delete;
  RdmaEndpoint& operator=(const RdmaEndpoint&) = delete;

  // Makes the queue pair and posts its receives: from now on the connection can be made.
  Result<void> add_stream(uint32_t stream, Connection connection);
  // The connections report here from now on.
  Result<void> take_channel(EventChannel channel);

  [[nodiscard]] const LinkOptions& options() const { return options_; }
  [[nodiscard]] const RegisteredRing& ring() const { return *ring_; }
  [[nodiscard]] const std::string& device() const { return device_; }
  // "the target's end of the link at 10.0.0.2 (by rxe0)"
  [[nodiscard]] const std::string& peer() const { return peer_; }
  [[nodiscard]] bool has_stream(uint32_t stream) const { return streams_[stream].has_value(); }
  [[nodiscard]] bool is_on(const rdma_cm_id* id) const { return domain_->context == id->verbs; }
  [[nodiscard]] rdma_cm_id* id(uint32_t stream) const { return streams_[stream]->id(); }
  // Sends that have been posted and not completed, at most, per stream.
  [[nodiscard]] uint32_t sends_max() const;

  Result<void> post_receive(uint32_t stream) const;
  Result<void> post_batch(uint32_t stream, uint32_t slot, uint32_t size, const RdmaWelcome& ring) const;
  Result<void> post_message(uint32_t stream, const Immediate& immediate) const;
  Result<void> post_probe(uint32_t stream) const;

  Result<void> reap(std::vector<ibv_wc>& completions) const { return queue_->reap(completions); }
  Result<void> arm() const { return queue_->arm(); }
  // Until a completion is notified, something happens to a connection, `wake_fd` is readable (-1: none), or
  // the moment comes.
  Result<void> sleep(int64_t until_ns, int wake_fd) const;
  // Why the link is over, as the connection manager has it; nothing if it is not.
  Result<std::optional<Error>> look_at_connections() const;
  // Why a completion that is no success ends the link.
  [[nodiscard]] Error failure_of(const ibv_wc& completion) const;
  void disconnect() const;

 private:
  RdmaEndpoint(const LinkOptions& options, Side side) : options_(options), side_(side) {
    streams_.resize(options.streams);
  }
  [[nodiscard]] ibv_qp* pair(uint32_t stream) const { return id(stream)->qp; }
  Result<void> post(uint32_t stream, ibv_send_wr& request, WorkKind kind, uint32_t slot) const;

  LinkOptions options_;
  Side side_;
  std::string device_;
  std::string peer_;
  // In the order of their making; they go in the opposite one.
  std::optional<EventChannel> channel_;
  std::unique_ptr<ibv_pd, decltype(&::ibv_dealloc_pd)> domain_{nullptr, &::ibv_dealloc_pd};
  std::optional<RegisteredRing> ring_;
  std::optional<CompletionQueue> queue_;
  std::vector<std::optional<Connection>> streams_;
};

}  // namespace godwit::transport
