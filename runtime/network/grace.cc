#include "runtime/network/grace.h"

#include <linux/membarrier.h>
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <vector>

#include "base/clock.h"
#include "base/fd.h"

namespace godwit::runtime {
namespace {

// Sized by the machine: more CPUs than cpu_set_t holds are possible.
class CpuSet {
 public:
  explicit CpuSet(size_t cpus) : cpus_(cpus), words_((cpus + 63) / 64) {}
  [[nodiscard]] size_t cpus() const { return cpus_; }
  [[nodiscard]] size_t bytes() const { return words_.size() * sizeof(uint64_t); }
  cpu_set_t* get() { return reinterpret_cast<cpu_set_t*>(words_.data()); }
  void only(size_t cpu) {
    std::ranges::fill(words_, 0);
    words_[cpu / 64] = uint64_t{1} << (cpu % 64);
  }

 private:
  size_t cpus_;
  std::vector<uint64_t> words_;
};

// Gives back affinity and scheduling of the calling thread.
class ThreadPlace {
 public:
  static Result<ThreadPlace> remember(size_t cpus) {
    ThreadPlace place(cpus);
    if (::sched_getaffinity(0, place.affinity_.bytes(), place.affinity_.get()) != 0)
      return fail("read the CPU affinity of", "this thread");
    place.policy_ = ::sched_getscheduler(0);
    if (place.policy_ < 0 || ::sched_getparam(0, &place.parameters_) != 0)
      return fail("read the scheduling of", "this thread");
    return place;
  }
  // Allowed to fail: without the priority it only takes longer.
  void hurry() const {
    sched_param urgent{};
    urgent.sched_priority = ::sched_get_priority_max(SCHED_FIFO);
    ::sched_setscheduler(0, SCHED_FIFO, &urgent);
  }
  Result<void> restore() {
    const int affinity = ::sched_setaffinity(0, affinity_.bytes(), affinity_.get());
    const int scheduling = ::sched_setscheduler(0, policy_, &parameters_);
    if (affinity != 0 || scheduling != 0) return fail("restore the scheduling of", "this thread");
    return {};
  }

 private:
  explicit ThreadPlace(size_t cpus) : affinity_(cpus) {}
  CpuSet affinity_;
  int policy_ = 0;
  sched_param parameters_{};
};

bool softirqs_preemptible() {
  return ::access("/sys/kernel/realtime", F_OK) == 0;
}

// False if a CPU that is online cannot be visited.
bool visit_every_cpu(size_t cpus) {
  CpuSet target(cpus);
  size_t online_left = static_cast<size_t>(::sysconf(_SC_NPROCESSORS_ONLN));
  for (size_t cpu = 0; cpu < cpus; ++cpu) {
    target.only(cpu);
    // sched_setaffinity(2) returns after the thread has been moved to an allowed CPU.
    if (::sched_setaffinity(0, target.bytes(), target.get()) == 0 && online_left > 0) --online_left;
  }
  return online_left == 0;
}

Result<void> wait_for_rcu() {
  if (::syscall(SYS_membarrier, MEMBARRIER_CMD_GLOBAL, 0, 0) != 0)
    return fail("wait for packet processing to end on", "all CPUs", errno,
                "let the agent run on all CPUs, or boot without nohz_full");
  return {};
}

// How many packets wait for each CPU that is online: the twelfth number of a line, in hexadecimal
// (net/core/net-procfs.c: softnet_seq_show). The lines are in the order of the CPUs.
std::vector<unsigned long> queued_packets() {
  constexpr int kQueuedField = 12;
  std::vector<unsigned long> queued;
  const auto text = read_file("/proc/thread-self/net/softnet_stat", size_t{1} << 20);
  if (!text) return queued;
  const char* at = text->c_str();
  for (int field = 1; *at != '\0'; ++field) {
    char* end = nullptr;
    const unsigned long number = std::strtoul(at, &end, 16);
    if (end == at) break;
    if (field == kQueuedField) queued.push_back(number);
    at = end + 1;
    if (*end == '\n') field = 0;
    if (*end == '\0') break;
  }
  return queued;
}

}  // namespace

void wait_for_queued_packets() {
  constexpr unsigned kPauseUs = 50;
  constexpr int64_t kWaitUsMax = 5'000;
  const int64_t end_us = monotonic_us() + kWaitUsMax;
  std::vector<bool> seen_empty;
  for (;;) {
    const auto queued = queued_packets();
    // With another number of CPUs the lines are others'.
    if (seen_empty.size() != queued.size()) seen_empty.assign(queued.size(), false);
    for (size_t i = 0; i < queued.size(); ++i)
      if (queued[i] == 0) seen_empty[i] = true;
    if (std::ranges::find(seen_empty, false) == seen_empty.end() || monotonic_us() >= end_us) return;
    ::usleep(kPauseUs);
  }
}

Result<void> wait_for_packet_processing() {
  static const bool preemptible = softirqs_preemptible();
  if (preemptible) return wait_for_rcu();
  // All that could ever be; which of them are online is asked each time.
  static const auto cpus = static_cast<size_t>(::sysconf(_SC_NPROCESSORS_CONF));
  GODWIT_ASSIGN(auto place, ThreadPlace::remember(std::max<size_t>(cpus, 1024)));
  place.hurry();
  const bool all = visit_every_cpu(cpus);
  GODWIT_TRY(place.restore());
  return all ? Result<void>{} : wait_for_rcu();
}

}  // namespace godwit::runtime
