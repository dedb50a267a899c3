// User and group ids, capabilities, securebits, no_new_privs (credentials(7), capabilities(7)).
//
// The order: while the thread may still do everything, it takes what it will keep; the last capset(2) gives
// everything else away. SECBIT_NO_SETUID_FIXUP keeps the kernel from changing capabilities with the user id.
#include <linux/capability.h>
#include <linux/securebits.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

#include "runtime/process/replica/member.h"

namespace godwit::runtime::rebuild {
namespace {

void set_capabilities(CallBatch& batch, uint64_t inheritable, uint64_t permitted, uint64_t effective) {
  const __user_cap_header_struct header{.version = _LINUX_CAPABILITY_VERSION_3, .pid = 0};
  __user_cap_data_struct data[2];
  for (int half = 0; half < 2; half++) {
    data[half] = {.effective = static_cast<uint32_t>(effective >> (32 * half)),
                  .permitted = static_cast<uint32_t>(permitted >> (32 * half)),
                  .inheritable = static_cast<uint32_t>(inheritable >> (32 * half))};
  }
  batch.call(SYS_capset, {batch.object(header), batch.data(std::as_bytes(std::span(data)))}, "capset");
}

void set_ids(CallBatch& batch, const model::Credentials& wanted) {
  const std::vector<uint32_t> groups(wanted.groups().begin(), wanted.groups().end());
  batch.call(SYS_setgroups, {groups.size(), batch.data(std::as_bytes(std::span(groups)))}, "setgroups");
  batch.call(SYS_setresgid, {wanted.gid(), wanted.egid(), wanted.sgid()}, "setresgid");
  batch.call(SYS_setfsgid, {wanted.fsgid()}, "setfsgid");
  batch.call(SYS_setresuid, {wanted.uid(), wanted.euid(), wanted.suid()}, "setresuid");
  batch.call(SYS_setfsuid, {wanted.fsuid()}, "setfsuid");
}

}  // namespace

void set_credentials(CallBatch& batch, const model::Thread& thread, const HostFacts& facts) {
  const model::Credentials& wanted = thread.credentials();
  const uint64_t all = facts.capabilities;
  batch.call(SYS_prctl, {PR_SET_SECUREBITS, SECBIT_NO_SETUID_FIXUP, 0, 0, 0}, "set the securebits");
  // Before the bounding set shrinks: what is inheritable may lie outside of it.
  set_capabilities(batch, wanted.capabilities_inheritable(), all, all);
  batch.call(SYS_prctl, {PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0}, "clear ambient capabilities");
  for (int capability = 0; capability < 64; capability++) {
    const uint64_t bit = uint64_t{1} << capability;
    const std::string name = "capability " + std::to_string(capability);
    if ((wanted.capabilities_ambient() & bit) != 0) {
      batch.call(SYS_prctl, {PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, capability, 0, 0},
                 "raise ambient " + name);
    }
    if ((all & ~wanted.capabilities_bounding() & bit) != 0) {
      batch.call(SYS_prctl, {PR_CAPBSET_DROP, capability, 0, 0, 0}, "drop bounding " + name);
    }
  }
  set_ids(batch, wanted);
  batch.call(SYS_prctl, {PR_SET_SECUREBITS, wanted.securebits(), 0, 0, 0}, "set the securebits");
  set_capabilities(batch, wanted.capabilities_inheritable(), wanted.capabilities_permitted(),
                   wanted.capabilities_effective());
  if (wanted.no_new_privileges()) {
    batch.call(SYS_prctl, {PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0}, "set no_new_privs");
  }
  // A change of credentials clears it.
  batch.call(SYS_prctl, {PR_SET_PDEATHSIG, thread.parent_death_signal(), 0, 0, 0}, "set the death signal");
}

}  // namespace godwit::runtime::rebuild
