#include <gtest/gtest.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/fd.h"
#include "runtime/process/descriptors/source.h"

namespace godwit::runtime {
namespace {

// A kernel whose fdinfo does not have the flag, as this process's own would look there.
FdInfo silent_info(int fd) {
  auto info = read_fdinfo(::getpid(), fd);
  EXPECT_TRUE(info);
  info->event_semaphore.reset();
  return *info;
}

TEST(EventCounter, TellsASemaphoreFromACounterAndLeavesItAsItWas) {
  for (const unsigned count : {0U, 1U, 2U, 3U, 40U}) {
    for (const int flag : {0, static_cast<int>(EFD_SEMAPHORE)}) {
      const Fd fd(::eventfd(count, EFD_CLOEXEC | flag));
      model::EventCounter model;
      ASSERT_TRUE(read_event_counter(fd.get(), silent_info(fd.get()), Moment::kFrozen, model));
      EXPECT_EQ(model.semaphore(), flag != 0) << count;
      EXPECT_EQ(model.count(), count);
      EXPECT_EQ(silent_info(fd.get()).event_count, count) << flag;
    }
  }
}

TEST(EventCounter, IsNotTouchedWhileTheContainerRuns) {
  const Fd fd(::eventfd(7, EFD_CLOEXEC | EFD_SEMAPHORE));
  model::EventCounter model;
  ASSERT_TRUE(read_event_counter(-1, silent_info(fd.get()), Moment::kLive, model));
  EXPECT_EQ(model.count(), 7U);
}

}  // namespace
}  // namespace godwit::runtime
