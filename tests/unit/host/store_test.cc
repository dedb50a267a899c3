#include "engine/host/store.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <thread>

#include "base/fd.h"
#include "engine/paths.h"

namespace godwit::engine {
namespace {

class StoreTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = std::filesystem::temp_directory_path() / "godwit-store-XXXXXX";
    ASSERT_NE(::mkdtemp(pattern.data()), nullptr);
    root_ = pattern;
  }
  void TearDown() override { std::filesystem::remove_all(root_); }

  static model::ContainerRecord record(const std::string& id, const std::string& address) {
    model::ContainerRecord record;
    record.set_id(id);
    record.set_address(address);
    record.set_memory_limit_bytes(uint64_t{5} << 32);
    return record;
  }
  [[nodiscard]] std::string path(const std::string& id, const std::string& name) const {
    return container_paths(root_, id).directory + "/" + name;
  }
  std::string root_;
};

TEST_F(StoreTest, ARecordAndItsExitSurviveARestart) {
  {
    Store store(root_);
    ASSERT_TRUE(store.load());
    ASSERT_TRUE(store.add(record("a", "10.0.0.5/24"), Stage::kStarting));
    ASSERT_TRUE(store.settle_running(record("a", "10.0.0.5/24"), 42));
    store.note_exit("a", {.known = true, .status = 137, .signal = 9, .at_unix_s = 7});
  }
  Store store(root_);
  ASSERT_TRUE(store.load());
  const auto found = store.find("a");
  ASSERT_TRUE(found);
  EXPECT_EQ(found->stage, Stage::kStopped);
  EXPECT_EQ(found->record.memory_limit_bytes(), uint64_t{5} << 32);
  ASSERT_TRUE(found->exit);
  EXPECT_EQ(found->exit->status, 137);
  EXPECT_EQ(found->exit->signal, 9);
}

TEST_F(StoreTest, ASessionBeginsOnlyIfThatCanBeWrittenDown) {
  Store store(root_);
  ASSERT_TRUE(store.load());
  ASSERT_TRUE(store.add(record("a", "10.0.0.5/24"), Stage::kStarting));
  ASSERT_TRUE(store.settle_running(record("a", "10.0.0.5/24"), 42));
  std::filesystem::create_directory(path("a", "status.json.new"));
  const auto refused = store.begin("a", "migrate", {Stage::kRunning}, Stage::kMigrating, "session");
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().kind, DenialKind::kInternal);
  EXPECT_EQ(store.find("a")->stage, Stage::kRunning);
  EXPECT_EQ(store.find("a")->session, "");
  // To end it must be possible on a full disk, too.
  EXPECT_TRUE(store.begin("a", "stop", {Stage::kRunning}, Stage::kStopping));
}

TEST_F(StoreTest, RefusesATakenIdAndATakenAddress) {
  Store store(root_);
  ASSERT_TRUE(store.load());
  ASSERT_TRUE(store.add(record("a", "10.0.0.5/24"), Stage::kStarting));
  EXPECT_EQ(store.add(record("a", "10.0.0.6/24"), Stage::kStarting).error().kind, DenialKind::kAlreadyExists);
  EXPECT_EQ(store.add(record("b", "10.0.0.5/16"), Stage::kStarting).error().kind, DenialKind::kAlreadyExists);
}

TEST_F(StoreTest, OnlyOneOperationAtATimeAndTheRefusalSaysWhich) {
  Store store(root_);
  ASSERT_TRUE(store.load());
  ASSERT_TRUE(store.add(record("a", "10.0.0.5/24"), Stage::kStarting));
  ASSERT_TRUE(store.settle_running(record("a", "10.0.0.5/24"), 42));
  ASSERT_TRUE(store.begin("a", "migrate", {Stage::kRunning}, Stage::kMigrating));
  for (const Stage to : {Stage::kMigrating, Stage::kStopping}) {
    const auto refused = store.begin("a", "stop", {Stage::kRunning}, to);
    ASSERT_FALSE(refused);
    EXPECT_EQ(refused.error().kind, DenialKind::kFailedPrecondition);
    EXPECT_NE(refused.error().to_string().find("being migrated"), std::string::npos);
  }
  EXPECT_FALSE(store.begin_command("a"));
  EXPECT_EQ(store.begin("x", "stop", {Stage::kRunning}, Stage::kStopping).error().kind,
            DenialKind::kNotFound);
}

TEST_F(StoreTest, ACommandInsideHoldsBackAMigration) {
  Store store(root_);
  ASSERT_TRUE(store.load());
  ASSERT_TRUE(store.add(record("a", "10.0.0.5/24"), Stage::kStarting));
  ASSERT_TRUE(store.settle_running(record("a", "10.0.0.5/24"), 42));
  ASSERT_TRUE(store.begin_command("a"));
  EXPECT_FALSE(store.begin("a", "migrate", {Stage::kRunning}, Stage::kMigrating));
  store.end_command("a");
  EXPECT_TRUE(store.begin("a", "migrate", {Stage::kRunning}, Stage::kMigrating));
}

TEST_F(StoreTest, AnExitDuringAMigrationIsRememberedUntilItIsSettled) {
  Store store(root_);
  ASSERT_TRUE(store.load());
  ASSERT_TRUE(store.add(record("a", "10.0.0.5/24"), Stage::kStarting));
  ASSERT_TRUE(store.settle_running(record("a", "10.0.0.5/24"), 42));
  ASSERT_TRUE(store.begin("a", "migrate", {Stage::kRunning}, Stage::kMigrating));
  store.note_exit("a", {.known = true, .status = 3, .signal = 0, .at_unix_s = 7});
  EXPECT_EQ(store.find("a")->stage, Stage::kMigrating);
  ASSERT_TRUE(store.settle_running(record("a", "10.0.0.5/24"), 42));
  EXPECT_EQ(store.find("a")->stage, Stage::kStopped);
  EXPECT_EQ(store.find("a")->exit->status, 3);
}

// The target's agent must not look like the container's keeper before it is: engine/inquiry.cc reads
// record.json.
TEST_F(StoreTest, AnArrivingContainerHasNoRecordUntilItHasArrived) {
  Store store(root_);
  ASSERT_TRUE(store.load());
  ASSERT_TRUE(store.add(record("a", "10.0.0.5/24"), Stage::kArriving));
  EXPECT_FALSE(std::filesystem::exists(path("a", "record.json")));
  {
    Store restarted(root_);
    ASSERT_TRUE(restarted.load());
    EXPECT_EQ(restarted.find("a")->stage, Stage::kArriving);
  }
  ASSERT_TRUE(store.settle_running(record("a", "10.0.0.5/24"), 42));
  EXPECT_TRUE(std::filesystem::exists(path("a", "record.json")));
  EXPECT_FALSE(std::filesystem::exists(path("a", "arriving.json")));
}

TEST_F(StoreTest, SpoiltFilesAreNotFatal) {
  {
    Store store(root_);
    ASSERT_TRUE(store.load());
    for (const char* id : {"a", "b"}) {
      ASSERT_TRUE(
          store.add(record(id, id == std::string("a") ? "10.0.0.5/24" : "10.0.0.6/24"), Stage::kStarting));
      ASSERT_TRUE(store.settle_running(record(id, "10.0.0.5/24"), 42));
    }
  }
  ASSERT_TRUE(write_file(path("a", "record.json"), "{\"id\": 5"));
  ASSERT_TRUE(write_file(path("b", "status.json"), "[]"));
  std::filesystem::create_directory(root_ + "/containers/..bad");
  Store store(root_);
  ASSERT_TRUE(store.load());
  EXPECT_FALSE(store.find("a"));
  ASSERT_TRUE(store.find("b"));
  EXPECT_EQ(store.find("b")->stage, Stage::kInvalid);
  EXPECT_EQ(store.list().size(), 1U);
}

TEST_F(StoreTest, WhoWaitsForAnExitIsWoken) {
  Store store(root_);
  ASSERT_TRUE(store.load());
  ASSERT_TRUE(store.add(record("a", "10.0.0.5/24"), Stage::kStarting));
  EXPECT_FALSE(store.await_exit("a", 1));
  std::jthread other(
      [&] { store.note_exit("a", {.known = true, .status = 1, .signal = 0, .at_unix_s = 1}); });
  const auto exit = store.await_exit("a", 10'000);
  ASSERT_TRUE(exit);
  EXPECT_EQ(exit->status, 1);
}

}  // namespace
}  // namespace godwit::engine
