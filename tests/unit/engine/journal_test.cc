#include <gtest/gtest.h>
#include <sys/resource.h>
#include <unistd.h>

#include <csignal>
#include <filesystem>
#include <fstream>

#include "engine/journal.h"

namespace godwit::engine {
namespace {

class JournalTest : public ::testing::Test {
 protected:
  void SetUp() override {
    directory_ = std::filesystem::temp_directory_path() / ("godwit-journal-" + std::to_string(::getpid()));
    std::filesystem::create_directories(directory_);
    path_ = directory_ / "journal";
  }
  void TearDown() override { std::filesystem::remove_all(directory_); }
  std::filesystem::path directory_;
  std::string path_;
};

TEST_F(JournalTest, SaysUndecidedUntilTheCommit) {
  auto journal = Journal::create(path_, "session-1", "10.0.0.2:7000");
  ASSERT_TRUE(journal.has_value()) << journal.error().to_string();
  auto before = Journal::read(path_);
  ASSERT_TRUE(before.has_value()) << before.error().to_string();
  EXPECT_FALSE(before->committed);
  EXPECT_EQ(before->session, "session-1");
  EXPECT_EQ(before->target, "10.0.0.2:7000");
  ASSERT_TRUE(journal->commit().has_value());
  EXPECT_TRUE(Journal::read(path_)->committed);
  ASSERT_TRUE(journal->overwrite_undecided().has_value());
  EXPECT_FALSE(Journal::read(path_)->committed);
  ASSERT_TRUE(journal->remove().has_value());
  EXPECT_EQ(Journal::read(path_).error().code, ENOENT);
}

TEST_F(JournalTest, RefusesWhatItCannotRead) {
  std::ofstream(path_) << std::string(512, '\0');
  EXPECT_FALSE(Journal::read(path_).has_value());
  std::ofstream(path_) << "perhaps s t\n";
  EXPECT_FALSE(Journal::read(path_).has_value());
}

TEST_F(JournalTest, ThereIsNoneIfItCannotBeWritten) {
  // As on a disk that is full: files can be made, but nothing can be written into them.
  rlimit before{};
  ASSERT_EQ(::getrlimit(RLIMIT_FSIZE, &before), 0);
  const auto handler = std::signal(SIGXFSZ, SIG_IGN);
  const rlimit none{.rlim_cur = 0, .rlim_max = before.rlim_max};
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &none), 0);
  const auto journal = Journal::create(path_, "session-1", "10.0.0.2:7000");
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &before), 0);
  std::signal(SIGXFSZ, handler);
  ASSERT_FALSE(journal.has_value());
  EXPECT_EQ(Journal::read(path_).error().code, ENOENT);
}

TEST_F(JournalTest, FailsInADirectoryThatIsNotThere) {
  EXPECT_FALSE(Journal::create(path_ + "/none", "s", "t").has_value());
}

}  // namespace
}  // namespace godwit::engine
