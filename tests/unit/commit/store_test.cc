// The sessions' records on a real disk: durable, locked, and read past the page cache.
#include "engine/commit/store.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

namespace godwit::engine {
namespace {

const std::string kUid(32, 'a');

class StoreTest : public testing::Test {
 protected:
  StoreTest() {
    char name[] = "/var/tmp/godwit-store-XXXXXX";
    root_ = ::mkdtemp(name);
    store_.emplace(root_);
    EXPECT_TRUE(store_->prepare());
  }
  ~StoreTest() override { std::filesystem::remove_all(root_); }
  StoreTest(const StoreTest&) = delete;
  StoreTest& operator=(const StoreTest&) = delete;

  static SessionRecord record(const std::string& session = "s1", Side side = Side::kSource) {
    return {.side = side,
            .state = side == Side::kSource ? SessionState::kUndecided : SessionState::kPreparing,
            .acknowledged = false,
            .changed_unix_s = 1'000,
            .session = session,
            .container = "db",
            .uid = kUid,
            .incarnation = 3,
            .peer_name = "b",
            .peer_addresses = {"10.0.0.2:7100", "host-b:7100"},
            .begun_unix_s = 900,
            .payload = "{\n  \"id\": \"db\"\n}\n"};
  }
  [[nodiscard]] std::string path(const std::string& name) const { return root_ + "/sessions/" + name; }

  // A process of its own that does `work` with the record it made, then waits to be killed.
  template <typename Work>
  pid_t worker(const Work& work) {
    int ready[2];
    EXPECT_EQ(::pipe(ready), 0);
    const pid_t pid = ::fork();
    if (pid == 0) {
      auto file = store_->create(record());
      if (!file || !work(*file)) ::_exit(1);
      (void)!::write(ready[1], "x", 1);
      for (;;) ::pause();
    }
    ::close(ready[1]);
    char byte = 0;
    EXPECT_EQ(::read(ready[0], &byte, 1), 1);
    ::close(ready[0]);
    return pid;
  }
  static void end(pid_t pid) {
    ::kill(pid, SIGKILL);
    ::waitpid(pid, nullptr, 0);
  }

  std::string root_;
  std::optional<SessionStore> store_;
};

TEST_F(StoreTest, KeepsWhatWasWritten) {
  ASSERT_TRUE(store_->create(record()));
  const auto read = store_->read("s1", Side::kSource);
  ASSERT_TRUE(read) << read.error().to_string();
  EXPECT_EQ(*read, record());
}

TEST_F(StoreTest, AdvancesInPlaceAndKeepsTheRest) {
  auto file = store_->create(record());
  ASSERT_TRUE(file);
  const auto size = std::filesystem::file_size(path("s1.source"));
  ASSERT_TRUE(file->advance(SessionState::kCommitted));
  EXPECT_EQ(file->state(), SessionState::kCommitted);
  EXPECT_EQ(std::filesystem::file_size(path("s1.source")), size);
  const auto read = store_->read("s1", Side::kSource);
  ASSERT_TRUE(read);
  EXPECT_EQ(*read, file->record());
  EXPECT_EQ(read->payload, record().payload);
  EXPECT_EQ(incarnation_in(*read), 4U);
}

TEST_F(StoreTest, OneSessionHasOneRecordASide) {
  ASSERT_TRUE(store_->create(record()));
  EXPECT_EQ(store_->create(record()).error().code, EEXIST);
  EXPECT_TRUE(store_->create(record("s1", Side::kTarget)));
  EXPECT_FALSE(std::filesystem::exists(path("s1.source.new")));
}

TEST_F(StoreTest, AbsenceIsSaidAsSuch) {
  EXPECT_EQ(store_->read("nothing", Side::kSource).error().code, ENOENT);
  EXPECT_FALSE(store_->worker_lives("nothing", Side::kSource));
}

TEST_F(StoreTest, AWorkerIsSeenUntilItDies) {
  const pid_t pid = worker([](SessionFile&) { return true; });
  EXPECT_TRUE(store_->worker_lives("s1", Side::kSource));
  EXPECT_EQ(store_->claim("s1", Side::kSource).error().code, EBUSY);
  ::kill(pid, SIGSTOP);
  EXPECT_TRUE(store_->worker_lives("s1", Side::kSource));
  end(pid);
  EXPECT_FALSE(store_->worker_lives("s1", Side::kSource));
  EXPECT_TRUE(store_->claim("s1", Side::kSource));
}

// A decision that is being written is not to be seen; a reader comes again.
TEST_F(StoreTest, AChangeUnderWayIsNotAnAnswer) {
  const pid_t pid = worker([&](SessionFile&) {
    const int file = ::open(path("s1.source").c_str(), O_RDWR);
    struct flock lock {};
    lock.l_type = F_WRLCK;
    lock.l_len = 1;
    return ::fcntl(file, F_OFD_SETLK, &lock) == 0;
  });
  EXPECT_EQ(store_->read("s1", Side::kSource).error().code, EAGAIN);
  end(pid);
  EXPECT_TRUE(store_->read("s1", Side::kSource));
}

TEST_F(StoreTest, DamageIsNamed) {
  ASSERT_TRUE(store_->create(record()));
  {
    std::fstream file(path("s1.source"), std::ios::in | std::ios::out);
    file.seekp(20);
    file.put('X');
  }
  EXPECT_NE(store_->read("s1", Side::kSource).error().to_string().find("damaged"), std::string::npos);
  std::filesystem::resize_file(path("s1.source"), 100);
  EXPECT_NE(store_->read("s1", Side::kSource).error().to_string().find("not whole"), std::string::npos);
  size_t unreadable = 0;
  const auto records = store_->list([&](const Error&) { ++unreadable; });
  ASSERT_TRUE(records);
  EXPECT_TRUE(records->empty());
  EXPECT_EQ(unreadable, 1U);
  EXPECT_FALSE(store_->highest_incarnation(kUid)) << "what cannot be read may be the highest";
}

// A file system that is full to the last byte refuses a new record, and takes every change of an old one.
TEST_F(StoreTest, AFullDiskTakesADecision) {
  const std::string image = root_ + "/image";
  const std::string mount = root_ + "/full";
  ASSERT_EQ(::mkdir(mount.c_str(), 0700), 0);
  const std::string commands =
      "truncate -s 8M " + image + " && mkfs.ext4 -q -F " + image + " && mount -o loop " + image + " " + mount;
  if (::geteuid() != 0 || std::system(commands.c_str()) != 0) GTEST_SKIP() << "no loop devices here";
  const SessionStore full(mount);
  ASSERT_TRUE(full.prepare());
  auto file = full.create(record());
  ASSERT_TRUE(file);
  {
    const Fd filler(::open((mount + "/filler").c_str(), O_WRONLY | O_CREAT, 0600));
    const std::string block(1 << 16, 'x');
    for (size_t size = block.size(); size != 0; size /= 2)
      while (::write(filler.get(), block.data(), size) > 0) {
      }
    ::fsync(filler.get());
  }
  const auto refused = full.create(record("s2"));
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, ENOSPC);
  EXPECT_TRUE(file->advance(SessionState::kCommitted));
  EXPECT_EQ(full.read("s1", Side::kSource)->state, SessionState::kCommitted);
  EXPECT_EQ(std::system(("umount -l " + mount).c_str()), 0);
}

TEST_F(StoreTest, IncarnationsOutliveTheirRecords) {
  EXPECT_EQ(*store_->highest_incarnation(kUid), 0U);
  {
    auto file = store_->create(record("s1", Side::kTarget));
    ASSERT_TRUE(file);
    // It has not run here yet.
    EXPECT_EQ(*store_->highest_incarnation(kUid), 0U);
    ASSERT_TRUE(file->advance(SessionState::kRunning));
    EXPECT_EQ(*store_->highest_incarnation(kUid), 4U);
    ASSERT_TRUE(file->acknowledge());
  }
  const int64_t later = std::time(nullptr) + 8 * 86'400;
  ASSERT_TRUE(store_->prune(later));
  EXPECT_EQ(store_->read("s1", Side::kTarget).error().code, ENOENT);
  EXPECT_EQ(*store_->highest_incarnation(kUid), 4U);
  ASSERT_TRUE(store_->remember_incarnation(kUid, 2));
  EXPECT_EQ(*store_->highest_incarnation(kUid), 4U);
}

// Records are read at each arrival: a host that migrates all the time must not become slower with the days.
TEST_F(StoreTest, OfMuchMigratedHostsTheNewestStay) {
  for (int i = 0; i < 300; ++i) {
    auto file = store_->create(record("s" + std::to_string(i), Side::kTarget));
    ASSERT_TRUE(file);
    ASSERT_TRUE(file->advance(SessionState::kRunning));
    if (i == 7) continue;  // of this one the other side has not heard
    ASSERT_TRUE(file->acknowledge());
  }
  ASSERT_TRUE(store_->prune(std::time(nullptr)));
  const auto left = store_->list([](const Error& error) { ADD_FAILURE() << error.to_string(); });
  ASSERT_TRUE(left);
  EXPECT_EQ(left->size(), 257U);
  EXPECT_TRUE(store_->read("s7", Side::kTarget));
  EXPECT_EQ(*store_->highest_incarnation(kUid), 4U);
}

// Until the other side has heard of it there is nothing else that could tell.
TEST_F(StoreTest, WhatNobodyHasAcknowledgedStays) {
  {
    auto file = store_->create(record("s1", Side::kTarget));
    ASSERT_TRUE(file);
    ASSERT_TRUE(file->advance(SessionState::kNeverRan));
  }
  ASSERT_TRUE(store_->prune(std::time(nullptr) + int64_t{1000} * 86'400));
  EXPECT_TRUE(store_->read("s1", Side::kTarget));
}

TEST(Record, RefusesWhatItCannotHold) {
  SessionRecord record;
  record.side = Side::kSource;
  record.state = SessionState::kUndecided;
  record.session = record.container = "s";
  record.peer_name = "two\nlines";
  EXPECT_FALSE(encode(record));
  record.peer_name = "one";
  record.state = SessionState::kRunning;
  EXPECT_FALSE(encode(record)) << "not a state of that side";
  record.state = SessionState::kUndecided;
  record.payload.assign(kRecordBytesMax, 'x');
  EXPECT_EQ(encode(record).error().code, EMSGSIZE);
}

TEST(Record, StatesHaveNames) {
  for (int i = 1; i <= 10; ++i) {
    const auto state = static_cast<SessionState>(i);
    EXPECT_EQ(session_state(to_string(state)), state);
    EXPECT_NE(belongs_to(state, Side::kSource), belongs_to(state, Side::kTarget));
  }
  EXPECT_EQ(session_state("no such"), SessionState::kInvalid);
}

}  // namespace
}  // namespace godwit::engine
