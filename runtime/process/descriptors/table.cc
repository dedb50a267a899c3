#include "runtime/process/descriptors/table.h"

#include <dirent.h>
#include <fcntl.h>
#include <linux/kcmp.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <climits>
#include <cstdlib>
#include <memory>

#include "base/directory.h"
#include "runtime/process/descriptors/fdinfo.h"

namespace godwit::runtime {
namespace {

std::string name_of(pid_t pid, int number) {
  return "pid " + std::to_string(pid) + " fd " + std::to_string(number);
}

Result<int> option(int socket, int name) {
  int value = 0;
  socklen_t length = sizeof value;
  if (::getsockopt(socket, SOL_SOCKET, name, &value, &length) != 0) return fail("ask the kind of", "socket");
  return value;
}

}  // namespace

Result<std::vector<TableEntry>> list_table(pid_t pid) {
  const std::string path = "/proc/" + std::to_string(pid) + "/fd";
  const Directory directory(::opendir(path.c_str()));
  if (!directory) return fail("list", path);
  std::vector<TableEntry> entries;
  while (const dirent* item = ::readdir(directory.get())) {
    if (item->d_name[0] < '0' || item->d_name[0] > '9') continue;
    char link[PATH_MAX];
    const ssize_t length = ::readlinkat(::dirfd(directory.get()), item->d_name, link, sizeof link);
    if (length < 0) continue;
    entries.push_back(
        {.number = std::atoi(item->d_name), .link = std::string(link, static_cast<size_t>(length))});
  }
  std::ranges::sort(entries, {}, &TableEntry::number);
  return entries;
}

Result<Fd> DescriptorThief::take(pid_t pid, int number) {
  Fd& pidfd = pidfds_[pid];
  if (!pidfd.valid()) {
    pidfd.reset(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0)));
    if (!pidfd.valid()) return fail("open", "pid " + std::to_string(pid));
  }
  Fd copy(static_cast<int>(::syscall(SYS_pidfd_getfd, pidfd.get(), number, 0)));
  if (!copy.valid() && errno == ESRCH) {  // that process is gone; the number may be another's now
    pidfd.reset(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0)));
    if (pidfd.valid()) copy.reset(static_cast<int>(::syscall(SYS_pidfd_getfd, pidfd.get(), number, 0)));
  }
  if (!copy.valid()) return fail("duplicate", name_of(pid, number));
  return copy;
}

Result<ObjectFacts> learn(DescriptorThief& thief, pid_t pid, const TableEntry& entry) {
  ObjectFacts facts;
  facts.link = entry.link;
  const std::string path = "/proc/" + std::to_string(pid) + "/fd/" + std::to_string(entry.number);
  if (::stat(path.c_str(), &facts.status) != 0) return fail("stat", name_of(pid, entry.number));
  struct statfs filesystem {};
  if (::statfs(path.c_str(), &filesystem) == 0) facts.filesystem = filesystem.f_type;
  GODWIT_ASSIGN(const FdInfo info, read_fdinfo(pid, entry.number));
  facts.flags = info.flags;
  if (!entry.link.starts_with("socket:[")) return facts;
  GODWIT_ASSIGN(const Fd socket, thief.take(pid, entry.number));
  GODWIT_ASSIGN(facts.family, option(socket.get(), SO_DOMAIN));
  GODWIT_ASSIGN(facts.type, option(socket.get(), SO_TYPE));
  GODWIT_ASSIGN(facts.protocol, option(socket.get(), SO_PROTOCOL));
  return facts;
}

Result<size_t> SharingIndex::find(const std::string& link, Holder holder) {
  std::vector<size_t>& bucket = buckets_[link];
  // A socket's inode has one description only.
  if (link.starts_with("socket:[") && !bucket.empty()) return bucket.front();
  size_t low = 0;
  size_t high = bucket.size();
  while (low < high) {
    const size_t middle = (low + high) / 2;
    const Holder& other = holders_[bucket[middle]];
    const long order = ::syscall(SYS_kcmp, holder.pid, other.pid, KCMP_FILE, holder.number, other.number);
    if (order < 0) return fail("compare", name_of(holder.pid, holder.number));
    if (order == 0) return bucket[middle];
    if (order == 1)
      high = middle;
    else if (order == 2)
      low = middle + 1;
    else
      return refuse("compare", name_of(holder.pid, holder.number), "the kernel gives no order");
  }
  bucket.insert(bucket.begin() + static_cast<std::ptrdiff_t>(low), holders_.size());
  holders_.push_back(holder);
  return holders_.size() - 1;
}

}  // namespace godwit::runtime
