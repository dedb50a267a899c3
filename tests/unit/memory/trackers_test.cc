#include "runtime/memory/trackers.h"

#include <gtest/gtest.h>

namespace godwit::runtime {
namespace {

constexpr TrackingAbilities kAll{.uffd_async = true, .uffd_sync = true, .soft_dirty = true};
constexpr TrackingAbilities kOld{.uffd_async = false, .uffd_sync = true, .soft_dirty = true};  // Debian's 6.1
constexpr TrackingAbilities kPlain{.uffd_async = false, .uffd_sync = true, .soft_dirty = false};

TEST(ChooseTracker, TakesTheCheapestThereIs) {
  EXPECT_EQ(choose_tracker("auto", kAll)->kind, TrackerKind::kUffdAsync);
  EXPECT_EQ(choose_tracker("auto", kOld)->kind, TrackerKind::kSoftDirty);
  EXPECT_EQ(choose_tracker("auto", kPlain)->kind, TrackerKind::kUffdSync);
  const auto none = choose_tracker("auto", {});
  ASSERT_FALSE(none.has_value());
  EXPECT_NE(none.error().to_string().find("CONFIG_MEM_SOFT_DIRTY"), std::string::npos)
      << none.error().to_string();
}

TEST(ChooseTracker, SaysWhyItTookNoBetterOne) {
  EXPECT_EQ(choose_tracker("auto", kAll)->why.find("lacks"), std::string::npos);
  EXPECT_NE(choose_tracker("auto", kPlain)->why.find("Linux 6.7"), std::string::npos);
}

TEST(ChooseTracker, TakesWhatTheUserWantsOrNothing) {
  for (const char* name : {"uffd", "soft-dirty", "uffd-sync"}) {
    EXPECT_TRUE(is_tracker_name(name));
    const auto choice = choose_tracker(name, kAll);
    ASSERT_TRUE(choice.has_value()) << name;
    EXPECT_STREQ(name_of(choice->kind), name);
  }
  const auto refused = choose_tracker("soft-dirty", kPlain);
  ASSERT_FALSE(refused.has_value());
  EXPECT_EQ(refused.error().to_string().find('\n'), std::string::npos);
  EXPECT_FALSE(choose_tracker("magic", kAll).has_value());
  EXPECT_FALSE(is_tracker_name(""));
}

}  // namespace
}  // namespace godwit::runtime
