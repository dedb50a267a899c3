#include "runtime/process/descriptors/epoll.h"

#include <linux/kcmp.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace godwit::runtime {
namespace {

// Whether `number` of process `pid` is what the instance at `epoll` watches as number tfd, the offset-th one.
bool is_watched(pid_t pid, int number, const Holder& epoll, int tfd, uint32_t offset) {
  const kcmp_epoll_slot slot = {
      .efd = static_cast<uint32_t>(epoll.number), .tfd = static_cast<uint32_t>(tfd), .toff = offset};
  return ::syscall(SYS_kcmp, pid, epoll.pid, KCMP_EPOLL_TFD, number, &slot) == 0;
}

}  // namespace

Result<void> read_epoll(const Survey& survey, size_t index, const FdInfo& info,
                        const std::vector<CapturedProcess>& processes, Moment moment, model::Epoll& epoll) {
  const Holder& at = survey.descriptions[index].at;
  std::map<int, uint32_t> seen;
  for (const FdInfo::Watch& found : info.watches) {
    const uint32_t offset = seen[found.descriptor]++;
    const SurveyedDescriptor* target = nullptr;
    // A process that adds the watch again needs both: the instance and the number.
    for (const SurveyedDescriptor& holder : survey.descriptors) {
      if (holder.description != index) continue;
      const SurveyedDescriptor* candidate = survey.find(holder.process, found.descriptor);
      if (candidate == nullptr ||
          !is_watched(processes[holder.process].host_pid, found.descriptor, at, found.descriptor, offset))
        continue;
      target = candidate;
      break;
    }
    if (target == nullptr) {
      if (moment == Moment::kLive) continue;
      return fail("carry the epoll watch of", "fd " + std::to_string(found.descriptor), EAGAIN,
                  "it watches a file that is no longer open under this number");
    }
    model::Epoll::Watch& watch = *epoll.add_watches();
    watch.set_number(static_cast<uint32_t>(found.descriptor));
    watch.set_events(found.events);
    watch.set_data(found.data);
    watch.set_description(survey.descriptions[target->description].id);
    watch.set_pid(static_cast<uint32_t>(processes[target->process].container_pid));
  }
  return {};
}

}  // namespace godwit::runtime
