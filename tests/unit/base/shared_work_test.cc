#include "base/shared_work.h"

#include <gtest/gtest.h>

#include <array>
#include <atomic>
#include <future>
#include <latch>
#include <set>
#include <thread>
#include <vector>

namespace godwit {
namespace {

TEST(SharedWork, IsDoneAloneWhereNobodyHelps) {
  SharedWork work;
  std::vector<size_t> lanes;
  work.run(4, [&](size_t lane) { lanes.push_back(lane); });
  EXPECT_EQ(lanes, std::vector<size_t>{0});
}

// Each lane once, each on another thread, and none is left when run() returns.
TEST(SharedWork, EveryHelperTakesALane) {
  SharedWork work(3);
  for (int i = 0; i < 100; ++i) {
    std::latch all(4);  // passed only if all four are inside at once
    std::array<std::thread::id, 4> threads;
    std::atomic<int> ended = 0;
    work.run(4, [&](size_t lane) {
      threads.at(lane) = std::this_thread::get_id();
      all.arrive_and_wait();
      ++ended;
    });
    EXPECT_EQ(ended, 4);
    EXPECT_EQ(std::set(threads.begin(), threads.end()).size(), 4U);
    EXPECT_EQ(threads[0], std::this_thread::get_id());
  }
}

TEST(SharedWork, NoMoreThanTheLanesAreGivenOut) {
  SharedWork work(4);
  std::latch both(2);
  std::atomic<int> calls = 0;
  work.run(2, [&](size_t) {
    ++calls;
    both.arrive_and_wait();
  });
  EXPECT_EQ(calls, 2);
}

// One that comes in the midst, and stays for what follows.
TEST(SharedWork, AHelperMayComeLate) {
  SharedWork work;
  std::latch begun(1);
  std::latch helped(1);
  auto late = std::async(std::launch::async, [&] {
    begun.wait();
    work.help();
  });
  work.run(2, [&](size_t lane) {
    if (lane == 0) begun.count_down();
    if (lane == 0) helped.wait();
    if (lane == 1) helped.count_down();
  });
  std::latch again(2);
  work.run(2, [&](size_t) { again.arrive_and_wait(); });
  work.end();
  late.get();
}

TEST(SharedWork, WhoComesAfterTheEndGoesAtOnce) {
  SharedWork work;
  work.end();
  work.help();
}

// Whoever helps, everything is done once.
TEST(SharedWork, TheWholeIsDoneOnce) {
  SharedWork work(2);
  for (int i = 0; i < 1000; ++i) {
    std::array<std::atomic<int>, 50> done{};
    std::atomic<size_t> next = 0;
    work.run(3, [&](size_t) {
      for (size_t at = next++; at < done.size(); at = next++) ++done.at(at);
    });
    for (const auto& times : done) ASSERT_EQ(times, 1);
  }
}

}  // namespace
}  // namespace godwit
