// eventfd, timerfd, signalfd: small objects that their fdinfo tells completely.
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/signalfd.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include <algorithm>
#include <ctime>

#include "runtime/process/descriptors/source.h"
#include "runtime/process/descriptors/target.h"

namespace godwit::runtime {
namespace {

// TFD_IOC_SET_TICKS of <linux/timerfd.h>: expirations not yet read.
constexpr unsigned long kSetTicks = _IOW('T', 0, uint64_t);

timespec to_timespec(uint64_t ns) {
  return {.tv_sec = static_cast<time_t>(ns / 1'000'000'000),
          .tv_nsec = static_cast<long>(ns % 1'000'000'000)};
}

Result<uint64_t> read_counter(int counter) {
  pollfd ready{.fd = counter, .events = POLLIN, .revents = 0};
  uint64_t value = 0;
  // It must not block: somebody outside of the container may have it too.
  if (::poll(&ready, 1, 0) != 1 || ::read(counter, &value, sizeof value) != sizeof value)
    return fail("read the count of", "eventfd", EAGAIN, "somebody outside of the container changes it");
  return value;
}

Result<void> add_to_counter(int counter, uint64_t value) {
  if (::write(counter, &value, sizeof value) != sizeof value) return fail("put back the count of", "eventfd");
  return {};
}

// A read(2) takes 1 from a semaphore and everything from another counter (eventfd(2)), which tells them
// apart from 2 on. Nobody in the frozen container sees what happens between; who waits for the counter
// looks again afterwards.
Result<bool> is_semaphore(int counter, uint64_t count) {
  const uint64_t raised = std::max<uint64_t>(count, 2);
  if (raised != count) GODWIT_TRY(add_to_counter(counter, raised - count));
  GODWIT_ASSIGN(const uint64_t taken, read_counter(counter));
  const bool semaphore = taken == 1;
  const uint64_t left = raised - taken;
  if (left < count) GODWIT_TRY(add_to_counter(counter, count - left));
  for (uint64_t excess = left; excess > count; --excess) GODWIT_TRY(read_counter(counter));
  return semaphore;
}

}  // namespace

Result<void> read_event_counter(int counter, const FdInfo& info, Moment moment, model::EventCounter& model) {
  model.set_count(info.event_count);
  bool semaphore = info.event_semaphore.value_or(false);
  if (!info.event_semaphore && moment == Moment::kFrozen) {
    GODWIT_ASSIGN(semaphore, is_semaphore(counter, info.event_count));
  }
  model.set_semaphore(semaphore);
  return {};
}

Result<Fd> make_event_counter(const model::EventCounter& counter) {
  Fd fd(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK | (counter.semaphore() ? EFD_SEMAPHORE : 0)));
  if (!fd.valid()) return fail("make", "eventfd");
  const uint64_t count = counter.count();
  if (count != 0 && ::write(fd.get(), &count, sizeof count) != sizeof count)
    return fail("set the count of", "eventfd");
  return fd;
}

void read_timer(const FdInfo& info, model::TimerDescriptor& timer) {
  timer.set_clock(info.clock);
  timer.set_interval_ns(info.interval_ns);
  timer.set_value_ns(info.value_ns);
  timer.set_ticks(info.ticks);
  timer.set_settime_flags(info.settime_flags);
}

Result<Fd> make_timer(const model::TimerDescriptor& timer) {
  Fd fd(::timerfd_create(timer.clock(), TFD_CLOEXEC));
  if (!fd.valid()) return fail("make timerfd of", "clock " + std::to_string(timer.clock()));
  if (timer.value_ns() != 0 || timer.interval_ns() != 0) {
    // A wall-clock timer stays bound to the wall clock; of all others only the remaining time has a meaning
    // on another host. A one-shot timer that has fired has no value but ticks, an interval always a value.
    const bool wall = timer.clock() == CLOCK_REALTIME || timer.clock() == CLOCK_REALTIME_ALARM;
    const int absolute =
        wall ? static_cast<int>(timer.settime_flags()) & (TFD_TIMER_ABSTIME | TFD_TIMER_CANCEL_ON_SET) : 0;
    uint64_t value = timer.value_ns() == 0 ? 1 : timer.value_ns();
    if ((absolute & TFD_TIMER_ABSTIME) != 0) {
      timespec now{};
      ::clock_gettime(CLOCK_REALTIME, &now);
      value += static_cast<uint64_t>(now.tv_sec) * 1'000'000'000 + static_cast<uint64_t>(now.tv_nsec);
    }
    const itimerspec spec = {.it_interval = to_timespec(timer.interval_ns()), .it_value = to_timespec(value)};
    if (::timerfd_settime(fd.get(), absolute, &spec, nullptr) != 0) return fail("arm", "timerfd");
  }
  const uint64_t ticks = timer.ticks();
  if (ticks != 0 && ::ioctl(fd.get(), kSetTicks, &ticks) != 0)
    return fail("set the ticks of", "timerfd", errno, "the kernel needs CONFIG_CHECKPOINT_RESTORE");
  return fd;
}

Result<Fd> make_signal(const model::SignalDescriptor& signal) {
  // The system call takes the kernel's 64-bit mask; the C library's is longer.
  const uint64_t mask = signal.mask();
  Fd fd(static_cast<int>(::syscall(SYS_signalfd4, -1, &mask, sizeof mask, SFD_CLOEXEC)));
  if (!fd.valid()) return fail("make", "signalfd");
  return fd;
}

}  // namespace godwit::runtime
