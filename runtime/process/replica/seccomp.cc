// Seccomp filters (seccomp(2)): those of the container are in the placeholder already; a program may have
// added its own. While the tracer is attached they are suspended, so that they can be installed at any time.
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/syscall.h>

#include <cstddef>

#include "runtime/process/replica/member.h"

namespace godwit::runtime::rebuild {
namespace {

constexpr uint32_t kFlagsThatCanTravel = SECCOMP_FILTER_FLAG_LOG | SECCOMP_FILTER_FLAG_SPEC_ALLOW;

}  // namespace

bool have_same_filters(const model::Process& wanted) {
  const auto& first = wanted.threads(0).seccomp_filters();
  for (const model::Thread& thread : wanted.threads()) {
    const auto& filters = thread.seccomp_filters();
    if (thread.seccomp_mode() != wanted.threads(0).seccomp_mode() ||
        !std::equal(first.begin(), first.end(), filters.begin(), filters.end())) {
      return false;
    }
  }
  return true;
}

Result<void> set_seccomp(CallBatch& batch, const model::Thread& wanted, const HostFacts& facts,
                         bool with_siblings) {
  const std::string name = "thread " + std::to_string(wanted.tid());
  const auto present = static_cast<int>(facts.seccomp_filters.size());
  bool prefix = wanted.seccomp_filters_size() >= present;
  for (int i = 0; prefix && i < present; i++) {
    prefix = wanted.seccomp_filters(i) == facts.seccomp_filters[static_cast<size_t>(i)];
  }
  if (!prefix) {
    return refuse("set the seccomp filters of", name,
                  "the container of this host has a filter that it does not have; use the same config.json");
  }
  for (int i = present; i < wanted.seccomp_filters_size(); i++) {
    const std::string& filter = wanted.seccomp_filters(i);
    uint32_t flags = i < wanted.seccomp_filter_flags_size() ? wanted.seccomp_filter_flags(i) : 0;
    flags &= ~uint32_t{SECCOMP_FILTER_FLAG_TSYNC | SECCOMP_FILTER_FLAG_TSYNC_ESRCH};
    if ((flags & ~kFlagsThatCanTravel) != 0) {
      return refuse("set the seccomp filters of", name, "a filter with flags that cannot travel");
    }
    // All threads at once: then they share the filter, as seccomp(2) demands of later synchronised ones.
    if (with_siblings) flags |= SECCOMP_FILTER_FLAG_TSYNC;
    sock_fprog program{};
    program.len = static_cast<uint16_t>(filter.size() / sizeof(sock_filter));
    const auto code = batch.data(std::as_bytes(std::span(filter.data(), filter.size())));
    const auto place = batch.object(program);
    batch.link(place, offsetof(sock_fprog, filter), code);
    batch.call(SYS_seccomp, {SECCOMP_SET_MODE_FILTER, flags, place}, "install a seccomp filter");
  }
  if (wanted.seccomp_mode() == SECCOMP_MODE_STRICT) {
    batch.call(SYS_seccomp, {SECCOMP_SET_MODE_STRICT, 0, 0}, "enter strict seccomp");
  }
  return {};
}

}  // namespace godwit::runtime::rebuild
