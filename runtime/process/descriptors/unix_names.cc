#include "runtime/process/descriptors/unix_names.h"

#include <fcntl.h>
#include <limits.h>
#include <linux/magic.h>
#include <linux/sockios.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "runtime/process/descriptors/object.h"

namespace godwit::runtime {
namespace {

constexpr unsigned long kSocketFile = SIOCPROTOPRIVATE;  // SIOCUNIXFILE of <linux/un.h>: an O_PATH descriptor

bool has_dots(const std::string& path) {
  const std::string closed = "/" + path + "/";
  return closed.find("/../") != std::string::npos || closed.find("/./") != std::string::npos ||
         closed.find("//") != std::string::npos;
}

// A fresh tmpfs of the target has nothing but its own root.
Result<void> check_directory(int root, const std::string& path, const std::string& name) {
  GODWIT_ASSIGN(const Fd directory, open_in_root(root, directory_of(path), O_PATH | O_DIRECTORY));
  struct statfs filesystem {};
  struct statx status {};
  if (::fstatfs(directory.get(), &filesystem) != 0 ||
      ::statx(directory.get(), "", AT_EMPTY_PATH, STATX_BASIC_STATS, &status) != 0)
    return fail("stat the directory of", name);
  if (filesystem.f_type == TMPFS_MAGIC && (status.stx_attributes & STATX_ATTR_MOUNT_ROOT) == 0)
    return refuse("carry unix socket", name, "its directory lies in this host's memory (tmpfs)");
  return {};
}

}  // namespace

std::string directory_of(const std::string& path) {
  const size_t slash = path.rfind('/');
  return slash == std::string::npos ? "." : slash == 0 ? "/" : path.substr(0, slash);
}

Result<AcceptedEnd> accepted_end(const std::string& first, const std::string& second,
                                 const std::set<std::string>& listeners) {
  if (first.empty() && second.empty()) return AcceptedEnd::kNone;
  if (second.empty()) return AcceptedEnd::kFirst;
  if (first.empty()) return AcceptedEnd::kSecond;
  // The client was bound too.
  const bool first_known = listeners.contains(first);
  const bool second_known = listeners.contains(second);
  if (first_known != second_known && !is_path(first_known ? second : first))
    return first_known ? AcceptedEnd::kFirst : AcceptedEnd::kSecond;
  return refuse(
      "carry", "unix socket",
      "both ends are bound, and their names do not say which one was accepted, or the client's is a path");
}

bool is_path(const std::string& name) {
  return !name.empty() && name.front() != '\0';
}

bool is_orphan(const model::UnixSocket& socket) {
  return socket.peer() == 0 && socket.shut_read() && socket.shut_write() && !socket.listening();
}

bool is_bound_itself(const model::UnixSocket& socket) {
  return !socket.address().empty() &&
         (socket.type() == SOCK_DGRAM || (socket.peer() == 0 && !is_orphan(socket)));
}

Result<void> locate_bound_file(int socket, int root, const std::string& root_path, model::UnixSocket& model) {
  const std::string& name = model.address();
  const Fd file(::ioctl(socket, kSocketFile));
  if (!file.valid()) return fail("find the file of unix socket", name);
  struct stat status {};
  if (::fstat(file.get(), &status) != 0) return fail("stat", name);
  if (status.st_nlink == 0)
    return refuse("carry unix socket", name, "its file was deleted: nobody can connect to it");
  char link[PATH_MAX];
  const ssize_t length =
      ::readlink(("/proc/self/fd/" + std::to_string(file.get())).c_str(), link, sizeof link);
  if (length <= 0 || link[0] != '/') return fail("find the path of unix socket", name, ENOENT);
  std::string path(link, static_cast<size_t>(length));
  if (!root_path.empty() && path.starts_with(root_path + "/")) path = path.substr(root_path.size());
  model::UnixSocket::BoundFile& bound = *model.mutable_bound_file();
  if (name.front() == '/') {
    path = name;
  } else if (!path.ends_with("/" + name) || has_dots(name)) {
    return refuse("carry unix socket", name,
                  "this relative path cannot be followed: bind it to an absolute one");
  } else {
    bound.set_directory(path.size() == name.size() + 1 ? "/" : path.substr(0, path.size() - name.size() - 1));
  }
  const auto found = open_in_root(root, path, O_PATH | O_NOFOLLOW);
  struct stat there {};
  if (!found || ::fstat(found->get(), &there) != 0 || there.st_ino != status.st_ino ||
      there.st_dev != status.st_dev)
    return refuse("carry unix socket", name,
                  "this path leads to another file by now, or out of the container");
  GODWIT_TRY(check_directory(root, path, name));
  bound.set_mode(status.st_mode & 07777U);
  bound.set_uid(status.st_uid);
  bound.set_gid(status.st_gid);
  return {};
}

}  // namespace godwit::runtime
