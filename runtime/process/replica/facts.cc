// What this host and the placeholder are like, asked once.
#include <elf.h>
#include <linux/filter.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>

#include "base/fd.h"
#include "runtime/kernel/uapi.h"
#include "runtime/memory/address_space.h"
#include "runtime/process/puppet_trace.h"
#include "runtime/process/replica/member.h"

namespace godwit::runtime::rebuild {
namespace {

Result<void> read_extended_state(pid_t tid, HostFacts& facts) {
  std::vector<std::byte> state(64 << 10);
  iovec place{.iov_base = state.data(), .iov_len = state.size()};
  if (trace(PTRACE_GETREGSET, tid, NT_X86_XSTATE, &place) != 0) {
    return fail("read the extended registers of", "the placeholder");
  }
  facts.extended_state_size = place.iov_len;
  std::memcpy(&facts.extended_features, state.data() + 464, sizeof facts.extended_features);
  return {};
}

Result<void> read_filters(pid_t tid, HostFacts& facts) {
  for (uint64_t index = 0;; index++) {
    const long length = trace(PTRACE_SECCOMP_GET_FILTER, tid, index);
    // ENOENT: no more; EINVAL: it has none at all.
    if (length < 0 && (errno == ENOENT || errno == EINVAL)) return {};
    if (length < 0) return fail("read the seccomp filters of", "the placeholder");
    std::vector<sock_filter> filter(static_cast<size_t>(length));
    if (trace(PTRACE_SECCOMP_GET_FILTER, tid, index, filter.data()) < 0) {
      return fail("read the seccomp filters of", "the placeholder");
    }
    facts.seccomp_filters.emplace_back(reinterpret_cast<const char*>(filter.data()),
                                       filter.size() * sizeof(sock_filter));
  }
}

Result<void> read_vdso(HostFacts& facts) {
  GODWIT_ASSIGN(const auto mappings, read_maps(::getpid()));
  uint64_t vvar = 0;
  for (const Vma& vma : mappings) {
    if (vvar == 0 && vma.name.starts_with("[vvar")) vvar = vma.start;
    if (vma.name != "[vdso]") continue;
    facts.vvar_size = vvar == 0 ? 0 : vma.start - vvar;
    facts.vdso_size = vma.end - vma.start;
  }
  return {};
}

// The placeholder is as mighty as runc could make it, which is less than everything where runc itself lacks
// some.
Result<void> read_capabilities(pid_t tid, HostFacts& facts) {
  const std::string path = "/proc/" + std::to_string(tid) + "/status";
  GODWIT_ASSIGN(const std::string status, read_file(path));
  const std::string field = "\nCapPrm:\t";
  const size_t found = status.find(field);
  if (found == std::string::npos) return refuse("read capabilities", path, "no CapPrm");
  facts.capabilities = std::strtoull(status.c_str() + found + field.size(), nullptr, 16);
  return {};
}

}  // namespace

Result<HostFacts> read_host_facts(Puppet& placeholder) {
  HostFacts facts;
  GODWIT_TRY(read_extended_state(placeholder.tid(), facts));
  GODWIT_TRY(read_filters(placeholder.tid(), facts));
  GODWIT_TRY(read_vdso(facts));
  GODWIT_TRY(read_capabilities(placeholder.tid(), facts));
  facts.timer_ids_can_be_chosen =
      ::prctl(PR_TIMER_CREATE_RESTORE_IDS, PR_TIMER_CREATE_RESTORE_IDS_GET, 0, 0, 0) >= 0;
  return facts;
}

}  // namespace godwit::runtime::rebuild
