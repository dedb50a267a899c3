#include "engine/host/output_log.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/statvfs.h>

#include <array>
#include <atomic>
#include <cstdlib>
#include <filesystem>
#include <sstream>
#include <thread>
#include <vector>

#include "base/command.h"
#include "engine/paths.h"

namespace godwit::engine {
namespace {

constexpr uint64_t kBytesMax = uint64_t{1} << 20;
constexpr size_t kLineBytes = 100;

std::string line(size_t number) {
  std::string text = fmt::format("{:010} ", number);
  text.resize(kLineBytes - 1, 'x');
  return text + "\n";
}

// The numbers of the whole lines of `text`, the first of which may be torn, or part of the mark. Anything
// that is no line is a failure.
std::vector<size_t> numbers(const std::string& text) {
  std::vector<size_t> result;
  std::istringstream stream(text);
  size_t strange = 0;
  for (std::string got; std::getline(stream, got);) {
    const size_t number = std::strtoull(got.c_str(), nullptr, 10);
    if (got + "\n" == line(number))
      result.push_back(number);
    else
      strange += !result.empty() || ++strange > 2 ? 100 : 0;
  }
  EXPECT_LE(strange, 2);
  return result;
}

void expect_consecutive(const std::vector<size_t>& found, size_t last) {
  ASSERT_FALSE(found.empty());
  EXPECT_EQ(found.back(), last);
  EXPECT_EQ(found.back() - found.front() + 1, found.size());
}

std::string read_on(OutputLogs::Reader& reader) {
  std::string all;
  std::array<char, 5000> piece{};
  for (;;) {
    auto got = reader.read(piece);
    EXPECT_TRUE(got.has_value()) << got.error().to_string();
    if (!got || *got == 0) return all;
    all.append(piece.data(), *got);
  }
}

// On a file system of its own, of the kind that is the parameter and 256 MiB large, in a mount namespace that
// goes with the test's thread.
class OutputLogTest : public ::testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    if (::geteuid() != 0) GTEST_SKIP() << "mounting needs root";
    if (::access("/dev/loop-control", F_OK) != 0) GTEST_SKIP() << "no loop devices";
    std::string pattern = std::filesystem::temp_directory_path() / "godwit-output-XXXXXX";
    ASSERT_NE(::mkdtemp(pattern.data()), nullptr);
    directory_ = pattern;
    root_ = directory_ + "/mount";
    std::filesystem::create_directories(root_);
    ASSERT_EQ(::unshare(CLONE_NEWNS), 0);
    ASSERT_EQ(::mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr), 0);
    if (GetParam() == std::string_view("tmpfs")) {
      ASSERT_EQ(::mount("none", root_.c_str(), "tmpfs", 0, "size=256m"), 0);
    } else {
      const std::string image = directory_ + "/image";
      ASSERT_TRUE(write_file(image, "").has_value());
      ASSERT_EQ(::truncate(image.c_str(), 256 << 20), 0);
      execute({"mkfs.ext4", "-q", "-m", "0", image});
      execute({"mount", "-o", "loop", image, root_});
    }
    std::filesystem::create_directories(container_paths(root_, "one").directory);
    path_ = container_paths(root_, "one").log;
    start(kBytesMax);
  }
  void TearDown() override {
    logs_.reset();
    writer_.reset();
    if (root_.empty()) return;
    EXPECT_EQ(::umount(root_.c_str()), 0);
    std::filesystem::remove_all(directory_);
  }
  static void execute(const std::vector<std::string>& arguments) {
    Command command;
    command.arguments = arguments;
    const auto outcome = run_command(command);
    ASSERT_TRUE(outcome.has_value()) << outcome.error().to_string();
    ASSERT_EQ(outcome->exit_status, 0) << outcome->errors;
  }
  void start(uint64_t bytes_max) {
    logs_ = OutputLogs::start(root_, bytes_max);
    auto writer = open_file(path_, O_WRONLY | O_CREAT | O_APPEND, 0600);
    ASSERT_TRUE(writer.has_value());
    writer_ = std::move(*writer);
  }
  void write_lines(size_t begin, size_t end) const {
    for (size_t i = begin; i < end; ++i)
      ASSERT_EQ(::write(writer_.get(), line(i).data(), kLineBytes), static_cast<ssize_t>(kLineBytes));
  }
  [[nodiscard]] std::unique_ptr<OutputLogs::Reader> open() const {
    auto reader = logs_->open("one");
    EXPECT_TRUE(reader.has_value()) << reader.error().to_string();
    return reader ? std::move(*reader) : nullptr;
  }
  [[nodiscard]] struct stat status() const {
    struct stat status {};
    EXPECT_EQ(::stat(path_.c_str(), &status), 0);
    return status;
  }
  [[nodiscard]] uint64_t bytes_on_disk() const { return static_cast<uint64_t>(status().st_blocks) * 512; }

  std::string directory_;
  std::string root_;
  std::string path_;
  std::unique_ptr<OutputLogs> logs_;
  Fd writer_;
};

TEST_P(OutputLogTest, LosesNothingNewWhileAWriterIsFast) {
  constexpr size_t kLines = 600'000;
  std::atomic<bool> written = false;
  std::thread writer([&] {
    write_lines(0, kLines);
    written = true;
  });
  while (!written) logs_->look();
  writer.join();
  logs_->look();
  EXPECT_LE(bytes_on_disk(), kBytesMax + (size_t{64} << 10));
  const std::string kept = read_on(*open());
  EXPECT_GE(kept.size(), kBytesMax / 2);
  EXPECT_LE(kept.size(), kBytesMax);
  EXPECT_TRUE(kept.starts_with(kOutputMark));
  expect_consecutive(numbers(kept), kLines - 1);
}

TEST_P(OutputLogTest, AReaderThatKeepsUpMissesNothing) {
  constexpr size_t kLines = 200'000;
  constexpr size_t kAheadMax = kBytesMax / 4 / kLineBytes;
  const auto reader = open();
  std::atomic<size_t> bytes_read = 0;
  std::thread writer([&] {
    for (size_t i = 0; i < kLines; ++i) {
      while (i > bytes_read / kLineBytes + kAheadMax) std::this_thread::yield();
      write_lines(i, i + 1);
    }
  });
  std::atomic<bool> done = false;
  std::thread looker([&] {
    while (!done) logs_->look();
  });
  std::string all;
  while (all.size() < kLines * kLineBytes && !HasFailure()) {
    all += read_on(*reader);
    bytes_read = all.size();
  }
  done = true;
  looker.join();
  writer.join();
  ASSERT_EQ(all.size(), kLines * kLineBytes);
  for (size_t i = 0; i < kLines; ++i) ASSERT_EQ(all.substr(i * kLineBytes, kLineBytes), line(i));
  EXPECT_LE(status().st_blocks * 512, 2 * kBytesMax);
}

TEST_P(OutputLogTest, AReaderThatIsOvertakenFindsTheMark) {
  write_lines(0, 10);
  const auto reader = open();
  EXPECT_EQ(read_on(*reader), line(0) + line(1) + line(2) + line(3) + line(4) + line(5) + line(6) + line(7) +
                                  line(8) + line(9));
  write_lines(10, 20'000);
  logs_->look();
  const std::string rest = read_on(*reader);
  EXPECT_TRUE(rest.starts_with(kOutputMark)) << rest.substr(0, 200);
  expect_consecutive(numbers(rest), 19'999);
  // From here on it keeps up.
  write_lines(20'000, 20'001);
  EXPECT_EQ(read_on(*reader), line(20'000));
}

TEST_P(OutputLogTest, AFullDiskHasRoomAgain) {
  logs_.reset();
  writer_.reset();
  // All but 24 MiB is taken.
  struct statvfs disk {};
  ASSERT_EQ(::statvfs(root_.c_str(), &disk), 0);
  const auto ballast = open_file(root_ + "/ballast", O_WRONLY | O_CREAT, 0600);
  ASSERT_TRUE(ballast.has_value());
  const auto free = static_cast<off_t>(disk.f_bavail * disk.f_frsize);
  ASSERT_EQ(::fallocate(ballast->get(), 0, 0, free - (24 << 20)), 0);
  // Nobody cuts before the disk is full.
  size_t written = 0;
  {
    auto writer = open_file(path_, O_WRONLY | O_CREAT | O_APPEND, 0600);
    ASSERT_TRUE(writer.has_value());
    while (::write(writer->get(), line(written).data(), kLineBytes) > 0) ++written;
    ASSERT_EQ(errno, ENOSPC);
  }
  ASSERT_GT(written * kLineBytes, size_t{16} << 20);
  struct stat before = status();
  start(kBytesMax);
  logs_->look();
  EXPECT_LE(bytes_on_disk(), kBytesMax);
  EXPECT_EQ(status().st_ino, before.st_ino);
  const auto reader = open();
  EXPECT_TRUE(read_on(*reader).starts_with(kOutputMark));
  write_lines(0, 5);
  EXPECT_TRUE(read_on(*reader).ends_with(line(0) + line(1) + line(2) + line(3) + line(4)));
}

TEST_P(OutputLogTest, TheThreadLooksByItself) {
  write_lines(0, 50'000);
  while (bytes_on_disk() > kBytesMax) std::this_thread::yield();
  expect_consecutive(numbers(read_on(*open())), 49'999);
}

TEST_P(OutputLogTest, AWriterThatDoesNotAppendLeavesNoZeroes) {
  // Not a multiple of a block, so that zeroes stand on both sides of the hole.
  auto plain = open_file(path_, O_WRONLY | O_TRUNC);
  ASSERT_TRUE(plain.has_value());
  const auto reader = open();
  std::string all;
  size_t next = 0;
  for (int cuts = 0; cuts < 5; ++cuts) {
    for (size_t i = 0; i < 20'011; ++i, ++next)
      ASSERT_EQ(::write(plain->get(), line(next).data(), kLineBytes), static_cast<ssize_t>(kLineBytes));
    all += read_on(*reader);
    logs_->look();
  }
  all += read_on(*reader);
  EXPECT_EQ(all.find('\0'), std::string::npos);
  EXPECT_LE(bytes_on_disk(), kBytesMax);
  EXPECT_TRUE(all.ends_with(line(next - 2) + line(next - 1)));
}

TEST_P(OutputLogTest, ZeroesOfHolesAreToldFromWrittenOnes) {
  const std::string written = std::string("a\0\0b", 4) + std::string(2996, 'c');
  const std::string last = std::string("d\0", 2);
  auto plain = open_file(path_, O_WRONLY);
  ASSERT_TRUE(plain.has_value());
  ASSERT_EQ(::pwrite(plain->get(), written.data(), written.size(), 0), static_cast<ssize_t>(written.size()));
  ASSERT_EQ(::pwrite(plain->get(), last.data(), last.size(), 100'003), static_cast<ssize_t>(last.size()));
  // Buffers that end at the first zero of the hole, before it, and among its zeroes.
  for (const size_t size : {2999, 3000, 3001, 3050, 8192}) {
    const auto reader = open();
    std::string all;
    std::string piece(size, '\0');
    for (size_t got = 1; got > 0; all.append(piece, 0, got)) got = reader->read(piece).value_or(0);
    EXPECT_EQ(all, written + last) << size;
  }
}

TEST_P(OutputLogTest, ATruncatedLogIsReadFromItsBeginning) {
  write_lines(0, 100);
  const auto reader = open();
  EXPECT_EQ(read_on(*reader).size(), 100 * kLineBytes);
  ASSERT_EQ(::truncate(path_.c_str(), 0), 0);
  EXPECT_EQ(read_on(*reader), "");
  write_lines(7, 8);
  EXPECT_EQ(read_on(*reader), line(7));
}

TEST_P(OutputLogTest, OneThatArrivedHasAnEmptyLog) {
  std::filesystem::remove(path_);
  EXPECT_EQ(read_on(*open()), "");
  EXPECT_TRUE(std::filesystem::exists(path_));
  EXPECT_EQ(logs_->open("two").error().code, ENOENT);
}

INSTANTIATE_TEST_SUITE_P(FileSystems, OutputLogTest, ::testing::Values("ext4", "tmpfs"),
                         [](const auto& info) { return std::string(info.param); });

}  // namespace
}  // namespace godwit::engine
