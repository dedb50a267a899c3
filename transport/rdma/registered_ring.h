// RegisteredRing: the buffers of all streams at one end of an RDMA link, registered with the adapter. One
// slot a buffer, page-aligned, slots of one stream one after the other.
//
// Registration pins the pages, so their number is bounded by RLIMIT_MEMLOCK unless the process has
// CAP_IPC_LOCK.
#pragma once

#include <infiniband/verbs.h>

#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "base/result.h"
#include "transport/buffer_memory.h"
#include "transport/link.h"

namespace godwit::transport {

// What to do when an adapter does not register or create something for lack of lockable memory; empty for
// other codes.
std::string hint_of_registration(int code, uint64_t bytes);

class RegisteredRing {
 public:
  // `options` have passed check_options(). `writable`: the peer may write into it by RDMA.
  static Result<RegisteredRing> create(ibv_pd* domain, const LinkOptions& options, bool writable);

  [[nodiscard]] std::span<std::byte> slot(uint32_t stream, uint32_t index) const;
  [[nodiscard]] uint64_t address(uint32_t stream) const;
  [[nodiscard]] uint32_t slot_stride() const;
  [[nodiscard]] uint32_t lkey() const { return registration_->lkey; }
  [[nodiscard]] uint32_t rkey() const { return registration_->rkey; }

 private:
  using Registration = std::unique_ptr<ibv_mr, decltype(&::ibv_dereg_mr)>;
  RegisteredRing(const LinkOptions& options, BufferMemory memory, Registration registration)
      : options_(options), memory_(std::move(memory)), registration_(std::move(registration)) {}

  LinkOptions options_;
  BufferMemory memory_;
  Registration registration_;  // goes before the memory
};

}  // namespace godwit::transport
