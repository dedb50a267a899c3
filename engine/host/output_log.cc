#include "engine/host/output_log.h"

#include <fcntl.h>
#include <spdlog/spdlog.h>
#include <sys/stat.h>

#include <algorithm>
#include <cassert>

#include "base/directory.h"
#include "engine/paths.h"

namespace godwit::engine {

namespace {

// A multiple of the blocks of all file systems in use, as FALLOC_FL_COLLAPSE_RANGE demands.
constexpr uint64_t kCutUnit = uint64_t{64} << 10;
constexpr uint64_t kStatBlock = 512;

// Of a punched log that is less than its size. And of one for which XFS has allocated ahead it is more.
uint64_t bytes_kept(const struct stat& status) {
  return std::min(static_cast<uint64_t>(status.st_size),
                  static_cast<uint64_t>(status.st_blocks) * kStatBlock);
}

// Says whether the rest has moved to the front. Whatever a collapse fails of, a hole frees the blocks as
// well.
Result<bool> drop_front(int file, off_t bytes, const std::string& path) {
  if (::fallocate(file, FALLOC_FL_COLLAPSE_RANGE, 0, bytes) == 0) return true;
  if (::fallocate(file, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, bytes) == 0) return false;
  return fail("free the oldest output in", path, errno, "it grows on");
}

}  // namespace

std::unique_ptr<OutputLogs> OutputLogs::start(std::string root, uint64_t bytes_max) {
  assert(bytes_max >= 4 * kCutUnit);
  std::unique_ptr<OutputLogs> logs(new OutputLogs(std::move(root), bytes_max));
  logs->thread_ = std::thread([self = logs.get()] { self->loop(); });
  return logs;
}

OutputLogs::~OutputLogs() {
  {
    const std::lock_guard lock(mutex_);
    end_ = true;
    assert(readers_.empty());
  }
  end_changed_.notify_all();
  thread_.join();
}

void OutputLogs::loop() {
  std::unique_lock lock(mutex_);
  while (!end_) {
    lock.unlock();
    look();
    lock.lock();
    end_changed_.wait_for(lock, kLookEvery, [this] { return end_; });
  }
}

// The directory is the list: what is in it is bounded, whoever made it and whatever state its container is
// in.
void OutputLogs::look() {
  const std::lock_guard lock(look_mutex_);
  std::set<std::string> failing;
  const auto note = [&](const std::string& path, const Error& error) {
    // ENOENT: no container yet, or one that writes nothing yet or is being removed.
    if (error.code == ENOENT || !failing.insert(path).second || failing_.contains(path)) return;
    spdlog::error("the output of containers is not bounded: {}", error.to_string());
  };
  const std::string containers = container_paths(root_, "").directory;
  const Directory directory(::opendir(containers.c_str()));
  if (directory == nullptr) note(containers, fail("list", containers).error());
  while (const dirent* entry = directory == nullptr ? nullptr : ::readdir(directory.get())) {
    if (entry->d_name[0] == '.') continue;
    const std::string path = container_paths(root_, entry->d_name).log;
    if (auto looked = look_at(path); !looked) note(path, looked.error());
  }
  failing_ = std::move(failing);
}

Result<void> OutputLogs::look_at(const std::string& path) {
  struct stat status {};
  if (::lstat(path.c_str(), &status) != 0) return fail("look at", path);
  if (!S_ISREG(status.st_mode) || bytes_kept(status) <= bytes_max_) return {};
  return cut(path);
}

Result<void> OutputLogs::cut(const std::string& path) {
  GODWIT_ASSIGN(const Fd file, open_file(path, O_RDWR | O_NOFOLLOW));
  // A collapse flushes the file while writers wait. Let there be little left of it to flush; what fails here
  // fails there again.
  static_cast<void>(::sync_file_range(
      file.get(), 0, 0, SYNC_FILE_RANGE_WAIT_BEFORE | SYNC_FILE_RANGE_WRITE | SYNC_FILE_RANGE_WAIT_AFTER));
  const std::lock_guard lock(mutex_);
  struct stat status {};
  if (::fstat(file.get(), &status) != 0) return fail("look at", path);
  const auto size = static_cast<uint64_t>(status.st_size);
  // The container may have truncated it.
  if (bytes_kept(status) <= bytes_max_) return {};
  const auto bytes = static_cast<off_t>((size - bytes_max_ / 2) / kCutUnit * kCutUnit);
  GODWIT_ASSIGN(const bool collapsed, drop_front(file.get(), bytes, path));
  for (Reader* reader : readers_)
    if (reader->device_ == status.st_dev && reader->inode_ == status.st_ino)
      reader->step_over(bytes, collapsed);
  // Over output that was kept, where nobody writes any more, so that the file itself tells those who open it.
  const ssize_t written = ::pwrite(file.get(), kOutputMark.data(), kOutputMark.size(), collapsed ? 0 : bytes);
  if (written < 0) return fail("mark the cut in", path, errno, "it was cut, though");
  return {};
}

Result<std::unique_ptr<OutputLogs::Reader>> OutputLogs::open(const std::string& id) {
  const std::string path = container_paths(root_, id).log;
  GODWIT_ASSIGN(Fd file, open_file(path, O_RDONLY | O_CREAT | O_NOFOLLOW, 0600));
  struct stat status {};
  if (::fstat(file.get(), &status) != 0) return fail("look at", path);
  std::unique_ptr<Reader> reader(new Reader(*this, std::move(file), path, status.st_dev, status.st_ino));
  const std::lock_guard lock(mutex_);
  readers_.insert(reader.get());
  return reader;
}

OutputLogs::Reader::~Reader() {
  const std::lock_guard lock(logs_.mutex_);
  logs_.readers_.erase(this);
}

void OutputLogs::Reader::step_over(off_t cut, bool collapsed) {
  // It was overtaken, or stands where the mark comes: it shall read the mark, all of it.
  if (position_ < cut + static_cast<off_t>(kOutputMark.size())) position_ = cut;
  if (collapsed) position_ -= cut;
}

Result<size_t> OutputLogs::Reader::read(std::span<char> buffer) {
  const std::lock_guard lock(logs_.mutex_);
  for (;;) {
    const off_t before = position_;
    GODWIT_ASSIGN(const std::span<char> piece, read_piece(buffer));
    std::ranges::copy(piece, buffer.begin());
    // Nothing but zeroes around a hole: what follows the hole is to be read.
    if (!piece.empty() || position_ == before) return piece.size();
  }
}

// Up to the next hole. A hole ends and begins anywhere in a block, but the file system knows whole blocks:
// the zeroes beside it are of the hole. Those at the end of a full buffer are left to the next read, which
// sees what they are beside.
Result<std::span<char>> OutputLogs::Reader::read_piece(std::span<char> buffer) {
  struct stat status {};
  if (::fstat(file_.get(), &status) != 0) return fail("look at", path_);
  if (status.st_size < position_) position_ = 0;  // truncated by the container
  const off_t begin = ::lseek(file_.get(), position_, SEEK_DATA);
  // ENXIO: the end.
  if (begin < 0 && errno == ENXIO) return buffer.first(0);
  const off_t end = begin < 0 ? begin : ::lseek(file_.get(), begin, SEEK_HOLE);
  if (end < 0 && errno == ENXIO) return buffer.first(0);
  if (end < 0) return fail("look for data in", path_);
  const size_t wanted = std::min(buffer.size(), static_cast<size_t>(end - begin));
  ssize_t got = 0;
  while ((got = ::pread(file_.get(), buffer.data(), wanted, begin)) < 0 && errno == EINTR) {
  }
  if (got < 0) return fail("read", path_);
  std::span<char> piece = buffer.first(static_cast<size_t>(got));
  const bool behind_hole = begin > position_;
  position_ = begin + got;
  const auto is_data = [](char byte) { return byte != '\0'; };
  if (behind_hole) piece = piece.subspan(std::ranges::find_if(piece, is_data) - piece.begin());
  size_t zeroes = 0;
  while (zeroes < piece.size() && piece[piece.size() - 1 - zeroes] == '\0') ++zeroes;
  const bool to_the_end = position_ == end;
  if (to_the_end && ::lseek(file_.get(), end, SEEK_DATA) <= end) return piece;  // the file's, not a hole's
  if (!to_the_end && zeroes == piece.size()) return piece;
  if (!to_the_end) position_ -= static_cast<off_t>(zeroes);
  return piece.first(piece.size() - zeroes);
}

}  // namespace godwit::engine
