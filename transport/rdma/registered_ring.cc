#include "transport/rdma/registered_ring.h"

#include <sys/resource.h>

namespace godwit::transport {
namespace {

uint32_t stride_of(const LinkOptions& options) {
  return static_cast<uint32_t>((options.buffer_bytes + kPageBytes - 1) / kPageBytes * kPageBytes);
}

uint64_t bytes_of(const LinkOptions& options) {
  return uint64_t{options.streams} * options.buffers_per_stream * stride_of(options);
}

}  // namespace

std::string hint_of_registration(int code, uint64_t bytes) {
  if (code != ENOMEM && code != EPERM && code != EAGAIN) return {};
  rlimit limit{};
  ::getrlimit(RLIMIT_MEMLOCK, &limit);
  const std::string now =
      limit.rlim_cur == RLIM_INFINITY ? "unlimited" : std::to_string(limit.rlim_cur >> 10) + " KiB";
  return "RLIMIT_MEMLOCK is " + now + ": set it to at least " + std::to_string((bytes >> 20) + 64) +
         " MiB (ulimit -l, LimitMEMLOCK= of a systemd unit), or grant CAP_IPC_LOCK";
}

Result<RegisteredRing> RegisteredRing::create(ibv_pd* domain, const LinkOptions& options, bool writable) {
  const uint64_t size = bytes_of(options);
  GODWIT_ASSIGN(BufferMemory memory, BufferMemory::create(size));
  const int access = writable ? IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_WRITE : 0;
  Registration registration(::ibv_reg_mr(domain, memory.all().data(), size, access), &::ibv_dereg_mr);
  if (!registration)
    return fail("register " + std::to_string(size >> 10) + " KiB of buffers with",
                ::ibv_get_device_name(domain->context->device), errno, hint_of_registration(errno, size));
  return RegisteredRing(options, std::move(memory), std::move(registration));
}

uint32_t RegisteredRing::slot_stride() const {
  return stride_of(options_);
}

std::span<std::byte> RegisteredRing::slot(uint32_t stream, uint32_t index) const {
  const uint64_t number = uint64_t{stream} * options_.buffers_per_stream + index;
  return memory_.all().subspan(number * slot_stride(), options_.buffer_bytes);
}

uint64_t RegisteredRing::address(uint32_t stream) const {
  return reinterpret_cast<uint64_t>(slot(stream, 0).data());
}

}  // namespace godwit::transport
