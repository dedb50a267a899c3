#include "runtime/process/descriptors/unix_stage.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdio>
#include <filesystem>

#include "base/fd.h"
#include "runtime/process/descriptors/object.h"
#include "runtime/process/descriptors/unix_connect.h"
#include "runtime/process/descriptors/unix_names.h"
#include "runtime/process/descriptors/unix_thread.h"

namespace godwit::runtime {
namespace {

constexpr std::string_view kAside = ".godwit-";

std::string text_of(const model::StagedName& place) {
  return (place.directory() == "/" ? "" : place.directory()) + "/" + place.name();
}

// The directory that is made for the socket alone.
std::string stage_directory(const model::StagedName& place) {
  return place.staged().substr(0, place.staged().find('/'));
}

Result<Fd> open_directory(int root, const model::StagedName& place) {
  return open_in_root(root, place.directory(), O_PATH | O_DIRECTORY);
}

Result<void> check_place(int directory, const model::StagedName& place) {
  struct stat status {};
  if (::fstatat(directory, place.name().c_str(), &status, AT_SYMLINK_NOFOLLOW) != 0) {
    if (errno == ENOENT) return {};
    return fail("stat", text_of(place));
  }
  if (!S_ISSOCK(status.st_mode))
    return refuse("bind unix socket", text_of(place), "another kind of file is there");
  return {};
}

// The directories that a path leads through.
Result<void> make_way(const std::string& path) {
  for (size_t slash = path.find('/', 1); slash != std::string::npos; slash = path.find('/', slash + 1))
    if (::mkdir(path.substr(0, slash).c_str(), 0700) != 0 && errno != EEXIST)
      return fail("make the directory of", path);
  return {};
}

}  // namespace

Result<model::StagedName> stage_of(const model::UnixSocket& model) {
  const std::string& address = model.address();
  const bool absolute = address.starts_with('/');
  const std::filesystem::path path = std::filesystem::path(address).lexically_normal();
  const std::string name = path.filename();
  if (name.empty() || name == "." || name == ".." || *path.begin() == "..")
    return refuse("bind unix socket", address, "this path leads nowhere");
  model::StagedName place;
  place.set_name(name);
  place.set_directory(absolute ? directory_of(address)
                               : directory_of(model.bound_file().directory() + "/" + address));
  place.set_staged(std::string(kAside) + name + "/" + path.relative_path().string());
  return place;
}

Result<void> bind_aside(int root, int socket, const model::UnixSocket& model,
                        const model::StagedName& place) {
  GODWIT_ASSIGN(const Fd directory, open_directory(root, place));
  GODWIT_TRY(check_place(directory.get(), place));
  GODWIT_TRY(remove_stage(root, place));
  const std::string stage = stage_directory(place);
  if (::mkdirat(directory.get(), stage.c_str(), 0700) != 0)
    return fail("make room beside", text_of(place), errno, "its directory must be writable at the target");
  GODWIT_ASSIGN(const Fd own, open_file_at(directory.get(), stage, O_PATH | O_DIRECTORY | O_NOFOLLOW));
  GODWIT_TRY(enter_root(own.get()));
  const std::string& path = model.address();
  GODWIT_TRY(make_way(path));
  GODWIT_TRY(bind_unix(socket, path));
  const model::UnixSocket::BoundFile& file = model.bound_file();
  if (::lchown(path.c_str(), file.uid(), file.gid()) != 0) return fail("change the owner of", path);
  if (::chmod(path.c_str(), file.mode()) != 0) return fail("change the mode of", path);
  return {};
}

Result<void> connect_aside(int root, int socket, const model::StagedName& peer) {
  const std::string path = (peer.directory() == "/" ? "" : peer.directory()) + "/" + peer.staged();
  GODWIT_ASSIGN(const Fd directory, open_in_root(root, directory_of(path), O_PATH | O_DIRECTORY));
  if (::fchdir(directory.get()) != 0) return fail("enter the directory of", path);
  return connect_unix(socket, peer.name());
}

Result<void> put_in_place(int root, const model::StagedName& place) {
  GODWIT_ASSIGN(const Fd directory, open_directory(root, place));
  if (::renameat(directory.get(), place.staged().c_str(), directory.get(), place.name().c_str()) == 0)
    return {};
  return fail("put into its place unix socket", text_of(place));
}

Result<void> put_in_place_once(int root, const model::StagedName& place) {
  GODWIT_ASSIGN(const Fd directory, open_directory(root, place));
  struct stat aside {
  }, there{};
  const bool gone =
      ::fstatat(directory.get(), place.staged().c_str(), &aside, AT_SYMLINK_NOFOLLOW) != 0 && errno == ENOENT;
  if (gone && ::fstatat(directory.get(), place.name().c_str(), &there, AT_SYMLINK_NOFOLLOW) == 0 &&
      S_ISSOCK(there.st_mode))
    return {};
  return put_in_place(root, place);
}

Result<void> remove_stage(int root, const model::StagedName& place) {
  GODWIT_ASSIGN(const Fd directory, open_directory(root, place));
  std::string path = place.staged();
  if (::unlinkat(directory.get(), path.c_str(), 0) != 0 && errno != ENOENT)
    return fail("remove", text_of(place) + " beside its place");
  for (size_t slash = path.rfind('/'); slash != std::string::npos; slash = path.rfind('/')) {
    path.resize(slash);
    if (::unlinkat(directory.get(), path.c_str(), AT_REMOVEDIR) != 0 && errno != ENOENT)
      return fail("remove", path + " in " + place.directory(), errno,
                  "an earlier attempt has left it: remove it");
  }
  return {};
}

}  // namespace godwit::runtime
