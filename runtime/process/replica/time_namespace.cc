// The time namespace (time_namespaces(7)): CLOCK_MONOTONIC and CLOCK_BOOTTIME go on where the source's stood.
#include <fcntl.h>
#include <sched.h>
#include <sys/syscall.h>

#include "base/fd.h"
#include "runtime/process/replica/member.h"

#ifndef CLONE_NEWTIME
#define CLONE_NEWTIME 0x00000080
#endif

namespace godwit::runtime::rebuild {
namespace {

constexpr int64_t kSecond = 1'000'000'000;

// "SECONDS NANOSECONDS" with 0 <= nanoseconds < one second, as timens_offsets wants it.
std::string offset_text(int64_t nanoseconds) {
  int64_t seconds = nanoseconds / kSecond;
  int64_t rest = nanoseconds % kSecond;
  if (rest < 0) {
    rest += kSecond;
    seconds--;
  }
  return std::to_string(seconds) + " " + std::to_string(rest);
}

}  // namespace

// unshare(2) makes the namespace for children; its offsets can be written as long as nobody is in it; then
// the placeholder joins it, and all its children with it.
Result<void> join_time_namespace(Member& placeholder, DescriptorRebuild& descriptors, int64_t monotonic_ns,
                                 int64_t boottime_ns) {
  Puppet& puppet = placeholder.leader();
  GODWIT_TRY(puppet.call(SYS_unshare, {CLONE_NEWTIME}, "make a time namespace"));
  const std::string proc = "/proc/" + std::to_string(placeholder.host_pid);
  GODWIT_TRY(write_file(proc + "/timens_offsets", "monotonic " + offset_text(monotonic_ns) + "\nboottime " +
                                                      offset_text(boottime_ns) + "\n"));
  GODWIT_ASSIGN(const Fd name_space, open_file(proc + "/ns/time_for_children", O_RDONLY));
  GODWIT_ASSIGN(const int theirs, descriptors.hand_in(placeholder.process(), name_space.get()));
  CallBatch batch;
  batch.call(SYS_setns, {theirs, CLONE_NEWTIME}, "join the time namespace");
  batch.call(SYS_close, {theirs}, "close");
  return puppet.run(batch);
}

}  // namespace godwit::runtime::rebuild
