// Regular files, directories, memory devices and the container's log.
#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include "runtime/process/descriptors/device_number.h"
#include "runtime/process/descriptors/source.h"
#include "runtime/process/descriptors/target.h"

namespace godwit::runtime {
namespace {

// What open(2) may be told again. O_CREAT, O_TRUNC, O_EXCL are of the past; the kernel does not keep them.
constexpr int kOpenFlags =
    O_ACCMODE | O_APPEND | O_NONBLOCK | O_DSYNC | O_SYNC | O_DIRECT | O_NOATIME | O_LARGEFILE | O_DIRECTORY;

int open_flags(uint32_t flags) {
  return static_cast<int>(flags) & kOpenFlags;
}

// Opens what it has looked at: to open a named pipe or a device is to wait, or to do something, so first it
// is seen whether it is what it was. O_NONBLOCK, which settles later to what the container had: nor does a
// lease of another host's (fcntl(2)) keep us.
template <typename Check>
Result<Fd> open_checked(int root, const std::string& path, int flags, Check is_right, const char* why) {
  GODWIT_ASSIGN(const Fd found, open_in_root(root, path, O_PATH));
  struct stat status {};
  if (::fstat(found.get(), &status) != 0) return fail("stat", path);
  if (!is_right(status)) return refuse("reopen", path, why);
  auto fd = open_file("/proc/self/fd/" + std::to_string(found.get()), flags | O_NONBLOCK | O_NOCTTY);
  if (!fd) return fail("open in the container", path, fd.error().code);
  return fd;
}

int64_t modified_ns(const struct stat& status) {
  return status.st_mtim.tv_sec * 1'000'000'000 + status.st_mtim.tv_nsec;
}

}  // namespace

Result<void> read_regular_file(const ObjectFacts& facts, const FdInfo& info, const std::string& path,
                               model::RegularFile& file) {
  file.set_path(path);
  file.set_position(info.position);
  file.set_directory(S_ISDIR(facts.status.st_mode));
  if ((info.flags & O_ACCMODE) == O_RDONLY && !file.directory() && !is_synthetic(facts.filesystem)) {
    file.mutable_identity()->set_size(static_cast<uint64_t>(facts.status.st_size));
    file.mutable_identity()->set_modified_ns(modified_ns(facts.status));
  }
  if (!info.foreign_lock.empty())
    return refuse("carry the lock of", path, info.foreign_lock + " is not a kind that can be moved");
  for (const FdInfo::Lock& found : info.locks) {
    model::FileLock& lock = *file.add_locks();
    lock.set_kind(found.kind);
    lock.set_type(found.type);
    lock.set_pid(found.kind == 2 ? static_cast<uint32_t>(found.pid) : 0);
    lock.set_start(found.start);
    lock.set_length(found.length);
  }
  return {};
}

void read_device(const ObjectFacts& facts, model::DeviceNode& device) {
  device.set_major(major_of(facts.status.st_rdev));
  device.set_minor(minor_of(facts.status.st_rdev));
  device.set_path(facts.link);
}

Result<Fd> make_file(int root, uint32_t flags, const model::RegularFile& file) {
  const auto is_right = [&](const struct stat& status) {
    return file.directory() ? S_ISDIR(status.st_mode) : S_ISREG(status.st_mode);
  };
  return open_checked(root, file.path(), open_flags(flags) | (file.directory() ? O_DIRECTORY : 0), is_right,
                      "it is another kind of file here than at the source");
}

Result<void> settle_file(int fd, const model::RegularFile& file) {
  struct stat status {};
  if (::fstat(fd, &status) != 0) return fail("stat", file.path());
  if (file.has_identity() && (static_cast<uint64_t>(status.st_size) != file.identity().size() ||
                              modified_ns(status) != file.identity().modified_ns()))
    return refuse("reopen", file.path(),
                  "size or time of change differ from the source's: both hosts must see the same storage");
  if (file.position() != 0 && ::lseek(fd, file.position(), SEEK_SET) < 0) return fail("seek in", file.path());
  for (const model::FileLock& lock : file.locks()) {
    int done = 0;
    if (lock.kind() == 1) {
      done = ::flock(fd, (lock.type() == F_WRLCK ? LOCK_EX : LOCK_SH) | LOCK_NB);
    } else if (lock.kind() == 3) {
      struct flock range {};
      range.l_type = static_cast<int16_t>(lock.type());
      range.l_whence = SEEK_SET;
      range.l_start = lock.start();
      range.l_len = lock.length();
      done = ::fcntl(fd, F_OFD_SETLK, &range);
    }
    if (done != 0)
      return fail("take again the lock of", file.path(), errno,
                  "somebody holds it: locks move only where each host has its own");
  }
  return {};
}

Result<Fd> make_device(int root, uint32_t flags, const model::DeviceNode& device) {
  const auto is_right = [&](const struct stat& status) {
    return S_ISCHR(status.st_mode) && status.st_rdev == device_number(device.major(), device.minor());
  };
  return open_checked(root, device.path(), open_flags(flags), is_right,
                      "it is another device here than at the source");
}

Result<Fd> make_log(const std::string& path, uint32_t flags) {
  return open_file(path, (open_flags(flags) & O_ACCMODE) | O_APPEND | O_CREAT, 0640);
}

}  // namespace godwit::runtime
