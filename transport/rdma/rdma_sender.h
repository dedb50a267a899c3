// RdmaSender: the source's end of an RDMA link. A buffer is free again when the adapter has done with it and
// the target has released it.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "transport/link.h"
#include "transport/rdma/rdma_endpoint.h"

namespace godwit::transport {

class RdmaSender final : public LinkSender {
 public:
  // All streams are connected; `rings`: of the target, one a stream.
  RdmaSender(std::unique_ptr<RdmaEndpoint> endpoint, const std::vector<RdmaWelcome>& rings);
  RdmaSender(const RdmaSender&) = delete;
  RdmaSender& operator=(const RdmaSender&) = delete;
  ~RdmaSender() override;

  [[nodiscard]] const char* name() const override { return name_.c_str(); }
  [[nodiscard]] uint32_t streams() const override { return static_cast<uint32_t>(streams_.size()); }
  void set_deadline_ns(int64_t deadline_ns) override { deadline_ns_ = deadline_ns; }
  Result<Buffer> acquire(uint32_t stream) override;
  Result<void> submit(const Buffer& buffer, uint32_t size) override;
  Result<void> barrier(uint64_t token) override;
  [[nodiscard]] LinkCounters counters() const override { return counters_; }

 private:
  enum class Owner : uint8_t { kInvalid = 0, kLink, kCaller, kTarget };
  struct Slot {
    Owner owner = Owner::kLink;
    bool in_flight = false;  // the adapter may still read it
  };
  struct Stream {
    RdmaWelcome ring;
    std::vector<Slot> slots;
    uint32_t unreleased = 0;  // batches
    bool probing = false;
    bool closed = false;
  };

  Result<void> check(const char* operation);
  std::unexpected<Error> end(Error error);
  // Handles what has completed; waits for something first, until the deadline, if `waiting`.
  Result<void> pump(bool waiting);
  Result<void> wait_and_drain();
  // Whether there was something.
  Result<bool> drain();
  Result<void> handle(const ibv_wc& completion);
  Result<void> take_credit(uint32_t stream, const ibv_wc& completion);
  Result<void> probe();
  Result<void> close_in_order();

  std::unique_ptr<RdmaEndpoint> endpoint_;
  std::string name_;
  std::vector<Stream> streams_;
  std::vector<ibv_wc> completions_;
  std::optional<Error> error_;
  LinkCounters counters_;
  int64_t deadline_ns_ = 0;
};

}  // namespace godwit::transport
