// Pipes and named pipes with what lies unread in them.
#include <fcntl.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "runtime/process/descriptors/source.h"
#include "runtime/process/descriptors/target.h"

namespace godwit::runtime {
namespace {

// tee(2) copies references to the pages and takes nothing away from the container's pipe. It needs a pipe
// open for reading, which a write end is not: /proc/self/fd opens the other side of the same pipe.
Result<std::string> peek_pipe(int pipe, int unread, int capacity) {
  GODWIT_ASSIGN(const Fd source, open_file("/proc/self/fd/" + std::to_string(pipe), O_RDONLY | O_NONBLOCK));
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC | O_NONBLOCK) != 0) return fail("make", "pipe");
  const Fd reader(ends[0]);
  const Fd writer(ends[1]);
  if (::fcntl(writer.get(), F_SETPIPE_SZ, capacity) < 0) return fail("grow", "pipe");
  const ssize_t teed = ::tee(source.get(), writer.get(), static_cast<size_t>(unread), SPLICE_F_NONBLOCK);
  if (teed != unread) return fail("copy the contents of", "pipe", teed < 0 ? errno : EIO);
  std::string contents(static_cast<size_t>(unread), '\0');
  size_t got = 0;
  while (got < contents.size()) {
    const ssize_t piece = ::read(reader.get(), contents.data() + got, contents.size() - got);
    if (piece <= 0) return fail("read the contents of", "pipe", piece < 0 ? errno : EIO);
    got += static_cast<size_t>(piece);
  }
  return contents;
}

}  // namespace

Result<void> read_pipe(int pipe, const ObjectFacts& facts, Moment moment, bool with_contents,
                       model::Pipe& model) {
  model.set_pipe(facts.status.st_ino);
  model.set_write_end((facts.flags & O_ACCMODE) == O_WRONLY);
  if (facts.link.starts_with("/")) model.set_fifo_path(facts.link);
  if (moment == Moment::kLive) return {};
  if ((facts.flags & O_DIRECT) != 0)
    return refuse("carry", facts.link, "a pipe in packet mode (O_DIRECT) cannot be moved");
  const int capacity = ::fcntl(pipe, F_GETPIPE_SZ);
  if (capacity < 0) return fail("ask the capacity of", facts.link);
  model.set_capacity(static_cast<uint32_t>(capacity));
  if (!with_contents) return {};
  int unread = 0;
  if (::ioctl(pipe, FIONREAD, &unread) != 0) return fail("ask the contents of", facts.link);
  if (unread == 0) return {};
  GODWIT_ASSIGN(*model.mutable_contents(), peek_pipe(pipe, unread, capacity));
  return {};
}

Result<std::pair<Fd, Fd>> make_pipe(int root, const model::Pipe& pipe) {
  if (!pipe.fifo_path().empty()) {
    // Opened for both first, so that neither open waits for its other side.
    GODWIT_ASSIGN(const Fd both, open_in_root(root, pipe.fifo_path(), O_RDWR | O_NONBLOCK));
    struct stat status {};
    if (::fstat(both.get(), &status) != 0 || !S_ISFIFO(status.st_mode))
      return refuse("reopen", pipe.fifo_path(), "it is no named pipe here");
    const std::string self = "/proc/self/fd/" + std::to_string(both.get());
    GODWIT_ASSIGN(Fd reader, open_file(self, O_RDONLY | O_NONBLOCK));
    GODWIT_ASSIGN(Fd writer, open_file(self, O_WRONLY | O_NONBLOCK));
    return std::pair(std::move(reader), std::move(writer));
  }
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC | O_NONBLOCK) != 0) return fail("make", "pipe");
  return std::pair(Fd(ends[0]), Fd(ends[1]));
}

Result<void> settle_pipe(int write_end, const model::Pipe& pipe) {
  if (pipe.capacity() != 0 && ::fcntl(write_end, F_SETPIPE_SZ, pipe.capacity()) < 0)
    return fail("set the capacity of", "pipe " + std::to_string(pipe.pipe()));
  const std::string& contents = pipe.contents();
  if (contents.empty()) return {};
  const ssize_t written = ::write(write_end, contents.data(), contents.size());
  if (written != static_cast<ssize_t>(contents.size()))
    return fail("refill", "pipe " + std::to_string(pipe.pipe()), written < 0 ? errno : ENOSPC);
  return {};
}

}  // namespace godwit::runtime
