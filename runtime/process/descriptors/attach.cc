#include "runtime/process/descriptors/attach.h"

#include <fcntl.h>
#include <sys/epoll.h>
#include <sys/syscall.h>

#include <unordered_map>

namespace godwit::runtime {
namespace {

Result<void> add_watches(const model::FileDescription& one, const model::Process& process, uint32_t epoll,
                         const std::unordered_map<uint32_t, uint64_t>& behind, CallBatch& batch) {
  for (const model::Epoll::Watch& watch : one.epoll().watches()) {
    if (watch.pid() != process.pid()) continue;
    const auto place = behind.find(watch.number());
    if (place == behind.end() || place->second != watch.description())
      return refuse("add the epoll watch of", "fd " + std::to_string(watch.number()),
                    "the snapshot has something else under this number");
    epoll_event event{};
    event.events = watch.events();
    event.data.u64 = watch.data();
    batch.call(SYS_epoll_ctl, {epoll, EPOLL_CTL_ADD, watch.number(), batch.object(event)},
               "epoll_ctl of fd " + std::to_string(watch.number()));
  }
  return {};
}

void add_locks(const model::FileDescription& one, const model::Process& process, uint32_t number,
               CallBatch& batch) {
  for (const model::FileLock& lock : one.file().locks()) {
    if (lock.kind() != 2 || lock.pid() != process.pid()) continue;
    struct flock range {};
    range.l_type = static_cast<int16_t>(lock.type());
    range.l_whence = SEEK_SET;
    range.l_start = lock.start();
    range.l_len = lock.length();
    batch.call(SYS_fcntl, {number, F_SETLK, batch.object(range)}, "fcntl F_SETLK of " + one.file().path());
  }
}

void add_owner(const model::FileDescription& one, uint32_t number, CallBatch& batch) {
  const f_owner_ex owner = {.type = static_cast<decltype(f_owner_ex::type)>(one.owner_type() - 1),
                            .pid = one.owner()};
  batch.call(SYS_fcntl, {number, F_SETOWN_EX, batch.object(owner)}, "fcntl F_SETOWN_EX");
  // O_ASYNC notes the number that the signal will tell: it has to be set under it.
  if ((one.flags() & O_ASYNC) != 0)
    batch.call(SYS_fcntl,
               {number, F_SETFL, one.flags() & (O_APPEND | O_NONBLOCK | O_DIRECT | O_NOATIME | O_ASYNC)},
               "fcntl F_SETFL");
}

}  // namespace

Result<void> add_attachments(const model::Snapshot& frozen, const model::Process& process, CallBatch& batch) {
  std::unordered_map<uint64_t, uint32_t> number_of;
  std::unordered_map<uint32_t, uint64_t> behind;
  for (const model::Descriptor& one : process.descriptors()) {
    number_of.try_emplace(one.description(), one.number());
    behind[one.number()] = one.description();
  }
  for (const model::FileDescription& one : frozen.descriptions()) {
    const auto place = number_of.find(one.id());
    if (place == number_of.end()) continue;
    if (one.kind_case() == model::FileDescription::kEpoll)
      GODWIT_TRY(add_watches(one, process, place->second, behind, batch));
    if (one.kind_case() == model::FileDescription::kFile) add_locks(one, process, place->second, batch);
    if (one.owner_type() != 0) add_owner(one, place->second, batch);
  }
  return {};
}

}  // namespace godwit::runtime
