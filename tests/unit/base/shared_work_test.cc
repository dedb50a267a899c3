#include "base/shared_work.h"

#include <gtest/gtest.h>

#include <array>
#include <atomic>
#include <latch>
#include <set>
#include <thread>
#include <vector>

namespace godwit {
namespace {

TEST(SharedWork, IsDoneAloneWhereNobodyHelps) {
  SharedWork work;
  EXPECT_EQ(work.lanes(), 1U);
  std::vector<size_t> lanes;
  work.run([&](size_t lane) { lanes.push_back(lane); });
  EXPECT_EQ(lanes, std::vector<size_t>{0});
}

// Each lane once, each on another thread, and none is left when run() returns.
TEST(SharedWork, EveryHelperTakesALane) {
  SharedWork work(3);
  for (int i = 0; i < 100; ++i) {
    std::latch all(4);  // passed only if all four are inside at once
    std::array<std::thread::id, 4> threads;
    std::atomic<int> ended = 0;
    work.run([&](size_t lane) {
      threads.at(lane) = std::this_thread::get_id();
      all.arrive_and_wait();
      ++ended;
    });
    EXPECT_EQ(ended, 4);
    EXPECT_EQ(std::set(threads.begin(), threads.end()).size(), 4U);
    EXPECT_EQ(threads[0], std::this_thread::get_id());
  }
}

// One that is not there yet is not waited for; it takes part in what follows.
TEST(SharedWork, AHelperMayComeLate) {
  std::latch come(1);
  SharedWork work(1, [&] { come.wait(); });
  std::vector<size_t> lanes;
  work.run([&](size_t lane) { lanes.push_back(lane); });
  EXPECT_EQ(lanes, std::vector<size_t>{0});
  come.count_down();
  std::latch both(2);
  work.run([&](size_t) { both.arrive_and_wait(); });
}

// Whoever helps, everything is done once.
TEST(SharedWork, TheWholeIsDoneOnce) {
  SharedWork work(2);
  for (int i = 0; i < 1000; ++i) {
    std::array<std::atomic<int>, 50> done{};
    std::atomic<size_t> next = 0;
    work.run([&](size_t) {
      for (size_t at = next++; at < done.size(); at = next++) ++done.at(at);
    });
    for (const auto& times : done) ASSERT_EQ(times, 1);
  }
}

}  // namespace
}  // namespace godwit
