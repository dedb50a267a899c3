// Bounds what the containers of one host leave on its disk by writing to stdout and stderr.
//
// A container writes into a plain file, ROOT/containers/ID/output.log, with O_APPEND. No process stands in
// between: one that could die, or be slow, would end or stall the container. So nobody can stop a container
// from writing too much; instead one thread looks at the logs of all containers ten times a second, and gives
// the oldest part of one that has outgrown `bytes_max` back to the file system, down to half of that.
//
// How it is given back. fallocate(2) with FALLOC_FL_COLLAPSE_RANGE cuts the front off (ext4, XFS): the file
// stays an ordinary small one for less, grep, cp and backups, and never comes near the largest size of a file
// (16 TiB on ext4, where a container would get EFBIG one day). Where that cannot be done (btrfs, tmpfs), or
// fails, FALLOC_FL_PUNCH_HOLE frees the same blocks and leaves a hole, so the apparent size grows on while
// the disk use does not. Both hold the inode's lock, as a write with O_APPEND does, so that nothing of what
// is being written is lost; to copy and truncate, or to truncate a log that seems idle, would lose what is
// written in between. To rename the file would not do: containers keep their descriptors, and those keep the
// file.
//
// What a reader finds. The kept part begins with kOutputMark, a line of its own, and the rest of a line that
// was cut in two. A Reader follows its log across cuts and misses nothing but what was cut off before it
// could read it; then the mark stands in that place. It delivers no zeroes for holes. `tail -f` on the file
// itself takes a collapse for a truncation, and prints the kept part again: that is what `godwit logs -f` is
// for.
//
// How far it is overshot: by what a container writes between two looks (kLookEvery) and while its log is
// flushed, which is done first so that the container need not wait for the disk during the cut. A container
// that writes 1 GB/s may hold about 100 MB more for a moment; one that writes 100 MB/s, 10 MB. While no agent
// runs nothing is cut; the next one does it with its first look, also to logs of containers that have ended.
// A write to a disk that is full fails with ENOSPC in the container, as any of its writes there; a cut needs
// no free space.
//
// A descriptor without O_APPEND (`> /dev/stdout` in a shell of the container, which truncates the log, too)
// keeps its offset across a collapse, so the next write leaves a hole; Readers step over it.
//
// The inode stays, and so does all that runtime/process knows a log by: containers may be captured meanwhile.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <thread>

#include "base/fd.h"

namespace godwit::engine {

constexpr uint64_t kOutputBytesMax = uint64_t{16} << 20;
constexpr auto kLookEvery = std::chrono::milliseconds(100);
// What follows is the rest of a line.
constexpr std::string_view kOutputMark = "[older output was dropped]\n...";

class OutputLogs {
 public:
  class Reader;

  // Starts to bound all logs below `root`, those of containers to come as well. `bytes_max` is per container,
  // 256 KiB or more.
  static std::unique_ptr<OutputLogs> start(std::string root, uint64_t bytes_max = kOutputBytesMax);
  // The thread ends; logs stay as they are. Readers must be gone.
  ~OutputLogs();
  OutputLogs(const OutputLogs&) = delete;
  OutputLogs& operator=(const OutputLogs&) = delete;

  // Any thread. Reads the log of one container from the oldest byte that is kept. One that arrived has no log
  // before it writes; then an empty one is made.
  Result<std::unique_ptr<Reader>> open(const std::string& id);

  // Any thread. What the thread does each time. Logs that cannot be cut are told of in the agent's log, once.
  void look();

 private:
  OutputLogs(std::string root, uint64_t bytes_max) : root_(std::move(root)), bytes_max_(bytes_max) {}
  void loop();
  Result<void> look_at(const std::string& path);
  Result<void> cut(const std::string& path);

  const std::string root_;
  const uint64_t bytes_max_;

  std::mutex look_mutex_;          // one look at a time; taken before mutex_
  std::set<std::string> failing_;  // what the last look could not do, by path

  std::mutex mutex_;  // held during a cut and during a read: positions belong to what is in the file
  std::condition_variable end_changed_;
  bool end_ = false;
  std::set<Reader*> readers_;

  std::thread thread_;
};

// One thread at a time.
class OutputLogs::Reader {
 public:
  ~Reader();
  Reader(const Reader&) = delete;
  Reader& operator=(const Reader&) = delete;
  // The next bytes, at most as many as fit. 0: nothing more has been written so far.
  Result<size_t> read(std::span<char> buffer);

 private:
  friend class OutputLogs;
  Reader(OutputLogs& logs, Fd file, std::string path, dev_t device, ino_t inode)
      : logs_(logs), file_(std::move(file)), path_(std::move(path)), device_(device), inode_(inode) {}
  // The front of the file goes, up to `cut`; the rest moves there if it `collapsed`.
  void step_over(off_t cut, bool collapsed);
  Result<std::span<char>> read_piece(std::span<char> buffer);

  OutputLogs& logs_;
  const Fd file_;
  const std::string path_;
  const dev_t device_;
  const ino_t inode_;
  off_t position_ = 0;  // in the file as it is now
};

}  // namespace godwit::engine
