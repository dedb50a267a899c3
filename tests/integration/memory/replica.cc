#include <fcntl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstdlib>
#include <random>

#include "tests/integration/memory/arena.h"

namespace godwit::runtime::arena {

struct Replica::Command {
  enum Kind : uint32_t { kMap, kUnmap, kProtect, kDiscard } kind;
  int32_t protection;
  int32_t flags;
  int32_t fd;
  uint64_t start;
  uint64_t size;
  uint64_t offset;
};

namespace {

int protection_of(const Vma& vma) {
  return (vma.readable ? PROT_READ : 0) | (vma.writable ? PROT_WRITE : 0) | (vma.executable ? PROT_EXEC : 0);
}

bool same_identity(const Vma& one, const Vma& other) {
  return one.shared == other.shared && one.inode == other.inode &&
         (one.inode == 0 || one.offset - one.start == other.offset - other.start);
}

// The parts of `vmas` that `other` has not, or shows otherwise.
std::vector<Vma> missing_from(const std::vector<Vma>& vmas, const std::vector<Vma>& other, bool protections) {
  std::vector<Vma> missing;
  for (const Vma& vma : vmas) {
    Ranges same;
    for (const Vma& candidate : other)
      if (candidate.start < vma.end && vma.start < candidate.end && same_identity(vma, candidate) &&
          (!protections || protection_of(vma) == protection_of(candidate)))
        append_range(same, {std::max(vma.start, candidate.start), std::min(vma.end, candidate.end)});
    for (const Range& part : subtract({{vma.start, vma.end}}, same)) {
      missing.push_back(vma);
      missing.back().start = part.start;
      missing.back().end = part.end;
      missing.back().offset += part.start - vma.start;
    }
  }
  return missing;
}

}  // namespace

Result<Objects> make_objects() {
  Objects objects;
  char name[] = "/tmp/godwit-arena-XXXXXX";  // not O_TMPFILE, which overlayfs has since 6.3 only
  objects.file = Fd(::mkostemp(name, O_CLOEXEC));
  if (objects.file.valid()) ::unlink(name);
  if (!objects.file.valid()) return fail("create", "a file in /tmp");
  std::mt19937 random(5);
  std::vector<uint32_t> words(kFileBytes / 4);
  std::ranges::generate(words, random);
  // A stretch of zeroes, so that zero pages of the file occur too.
  std::fill(words.begin(), words.begin() + 64 * 1024 / 4, 0);
  if (::pwrite(objects.file.get(), words.data(), kFileBytes, 0) != static_cast<ssize_t>(kFileBytes))
    return fail("write", "the file");
  for (Fd* side : {objects.source, objects.replica})
    for (int i = 0; i < 2; ++i) {
      side[i] = Fd(::memfd_create("arena", MFD_CLOEXEC));
      if (::ftruncate(side[i].get(), kObjectBytes) != 0) return fail("ftruncate", "a memfd");
    }
  for (int i = 0; i < 2; ++i) {
    GODWIT_ASSIGN(objects.reading[i], open_file("/proc/self/fd/" + std::to_string(objects.source[i].get()),
                                                O_RDONLY | O_NOATIME));
  }
  return objects;
}

int object_of(const Vma& vma, const Objects& objects) {
  for (int i = 0; i < 2; ++i) {
    struct stat status {};
    if (::fstat(objects.source[i].get(), &status) == 0 && vma.shared && status.st_ino == vma.inode) return i;
  }
  return -1;
}

Result<Replica> Replica::start(const Objects& /*objects*/) {
  int ends[2];
  if (::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) != 0)
    return fail("socketpair", "the replica");
  Replica replica;
  replica.channel_ = Fd(ends[0]);
  const Fd far(ends[1]);
  const pid_t pid = ::fork();
  if (pid < 0) return fail("fork", "the replica");
  if (pid == 0) {
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    for (Command command{}; ::recv(far.get(), &command, sizeof command, 0) == sizeof command;) {
      void* start = reinterpret_cast<void*>(command.start);
      bool done = false;
      if (command.kind == Command::kMap)
        done = ::mmap(start, command.size, command.protection, command.flags, command.fd,
                      static_cast<off_t>(command.offset)) != MAP_FAILED;
      if (command.kind == Command::kUnmap) done = ::munmap(start, command.size) == 0;
      if (command.kind == Command::kProtect) done = ::mprotect(start, command.size, command.protection) == 0;
      if (command.kind == Command::kDiscard) done = ::madvise(start, command.size, MADV_DONTNEED) == 0;
      const int outcome = done ? 0 : errno;
      if (::send(far.get(), &outcome, sizeof outcome, 0) != sizeof outcome) break;
    }
    ::_exit(0);
  }
  replica.child_ = Child(pid);
  return replica;
}

Result<void> Replica::tell(const Command& command) {
  int outcome = 0;
  if (::send(channel_.get(), &command, sizeof command, 0) != sizeof command ||
      ::recv(channel_.get(), &outcome, sizeof outcome, 0) != sizeof outcome)
    return fail("talk to", "the replica");
  if (outcome != 0) return fail("command the replica", std::to_string(command.kind), outcome);
  return {};
}

Result<void> Replica::reconcile(const std::vector<Vma>& vmas, const Objects& objects) {
  for (const Vma& gone : missing_from(vmas_, vmas, false))
    GODWIT_TRY(tell({Command::kUnmap, 0, 0, -1, gone.start, gone.end - gone.start, 0}));
  for (const Vma& vma : missing_from(vmas, vmas_, false)) {
    const int object = object_of(vma, objects);
    const int fd = object >= 0 ? objects.replica[object].get() : vma.inode != 0 ? objects.file.get() : -1;
    const int flags = (vma.shared ? MAP_SHARED : MAP_PRIVATE) | MAP_FIXED | (fd < 0 ? MAP_ANONYMOUS : 0);
    GODWIT_TRY(
        tell({Command::kMap, protection_of(vma), flags, fd, vma.start, vma.end - vma.start, vma.offset}));
  }
  for (const Vma& vma : missing_from(vmas, vmas_, true))
    GODWIT_TRY(tell({Command::kProtect, protection_of(vma), 0, -1, vma.start, vma.end - vma.start, 0}));
  vmas_ = vmas;
  return {};
}

Result<void> Replica::discard(Range range) {
  return tell({Command::kDiscard, 0, 0, -1, range.start, range.size(), 0});
}

}  // namespace godwit::runtime::arena
