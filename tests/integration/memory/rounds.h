// Rounds of a source process into a replica, with every tracker that this kernel has.
#pragma once

#include <gtest/gtest.h>

#include <cstddef>
#include <memory>
#include <ostream>
#include <string>
#include <vector>

#include "runtime/memory/digest.h"
#include "runtime/memory/page_sink.h"
#include "runtime/memory/page_source.h"
#include "tests/integration/memory/arena.h"

namespace godwit::runtime {

inline constexpr uint64_t kSourceId = 17;

#define ASSERT_DONE(...)                                                                             \
  do {                                                                                               \
    const auto& done_result = (__VA_ARGS__);                                                         \
    ASSERT_TRUE(done_result.has_value()) << #__VA_ARGS__ << ": " << done_result.error().to_string(); \
  } while (false)

// None: every page is compared in every round.
enum class Tracking { kNone, kUffd, kUffdSync, kSoftDirty };
const char* name_of(Tracking tracking);
// For INSTANTIATE_TEST_SUITE_P.
inline constexpr Tracking kEveryTracking[] = {Tracking::kUffd, Tracking::kUffdSync, Tracking::kSoftDirty,
                                              Tracking::kNone};
std::string test_name(const testing::TestParamInfo<Tracking>& chosen);

class RoundsTest : public testing::TestWithParam<Tracking> {
 protected:
  void SetUp() override;
  // Called by SetUp: which process is watched.
  virtual Result<arena::Source> start() = 0;
  // Gives the tracker to pages_; a test may take it before.
  void track() { pages_.add_process(kSourceId, source_.child.pid(), std::move(tracker_)); }

  Result<MemoryView> view(bool frozen) const;
  [[nodiscard]] MemoryView replica_view(const MemoryView& view) const;
  void round(bool frozen, MemoryView& view);
  void compare(const MemoryView& view);
  void compare_vma(const Vma& vma, int ours, int theirs) const;
  void compare_populated(const Vma& vma) const;
  // SetUp has done it, for tracker_.
  Result<std::unique_ptr<DirtyTracker>> make_tracker();

  uint64_t seed_ = 0;
  arena::Objects objects_;
  arena::Source source_;
  std::unique_ptr<arena::Replica> replica_;
  std::unique_ptr<DirtyTracker> tracker_;  // for whom the test is about
  PageSource pages_;
  PageSink sink_;
  MemoryDigest kept_;  // of the replica, from round to round
  std::vector<std::byte> buffer_;
};

}  // namespace godwit::runtime
