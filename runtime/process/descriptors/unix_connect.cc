#include "runtime/process/descriptors/unix_connect.h"

#include <fcntl.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cstddef>
#include <cstring>

#include "runtime/process/descriptors/unix_names.h"
#include "runtime/process/descriptors/unix_thread.h"

namespace godwit::runtime {
namespace {

struct UnixAddress {
  sockaddr_un value{};
  socklen_t length = 0;
  explicit UnixAddress(const std::string& name) {
    value.sun_family = AF_UNIX;
    const size_t size = std::min(name.size(), sizeof value.sun_path);
    std::memcpy(value.sun_path, name.data(), size);
    length = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + size);
  }
  [[nodiscard]] const sockaddr* get() const { return reinterpret_cast<const sockaddr*>(&value); }
};

Result<void> take_credentials(const model::UnixSocket::PeerCredentials& who) {
  return runtime::act_as(who.uid(), who.gid());
}

Result<Fd> open_socket(const model::UnixSocket& one) {
  Fd socket(::socket(AF_UNIX, static_cast<int>(one.type()) | SOCK_CLOEXEC, 0));
  if (!socket.valid()) return fail("make", "unix socket");
  return socket;
}

}  // namespace

Result<void> bind_unix(int socket, const std::string& name) {
  const UnixAddress address(name);
  if (::bind(socket, address.get(), address.length) != 0) return fail("bind unix socket", name);
  return {};
}

Result<void> connect_unix(int socket, const std::string& name) {
  const UnixAddress address(name);
  if (::connect(socket, address.get(), address.length) != 0) return fail("connect unix socket", name);
  return {};
}

// A tmpfs that is mounted nowhere: it goes with the thread's last reference to it.
Result<void> UnixConnector::enter_private_root() {
  if (is_private_) return {};
  const Fd context(::fsopen("tmpfs", FSOPEN_CLOEXEC));
  if (!context.valid() || ::fsconfig(context.get(), FSCONFIG_CMD_CREATE, nullptr, nullptr, 0) != 0)
    return fail("make", "a private file system");
  const Fd root(::fsmount(context.get(), FSMOUNT_CLOEXEC, 0));
  if (!root.valid()) return fail("mount", "a private file system");
  GODWIT_TRY(enter_root(root.get()));
  is_private_ = true;
  return {};
}

// Directories up to the file, and no file.
Result<void> UnixConnector::clear_way(const std::string& path) {
  GODWIT_TRY(enter_private_root());
  for (size_t slash = path.find('/', 1); slash != std::string::npos; slash = path.find('/', slash + 1))
    if (::mkdir(path.substr(0, slash).c_str(), 0700) != 0 && errno != EEXIST)
      return fail("make the directory of", path);
  if (::unlink(path.c_str()) != 0 && errno != ENOENT) return fail("unlink", path);
  return {};
}

Result<void> UnixConnector::listen_on(const model::UnixSocket& accepted, const model::UnixSocket& client) {
  const auto& owner = client.peer_credentials();
  std::string key = std::to_string(accepted.type()) + " " + std::to_string(owner.uid()) + " " +
                    std::to_string(owner.gid()) + " " + accepted.address();
  if (listener_.valid() && key == key_) return {};
  listener_.reset();
  if (is_path(accepted.address())) GODWIT_TRY(clear_way(accepted.address()));
  GODWIT_ASSIGN(listener_, open_socket(accepted));
  GODWIT_TRY(take_credentials(owner));
  GODWIT_TRY(bind_unix(listener_.get(), accepted.address()));
  if (::listen(listener_.get(), 1) != 0) return fail("listen on", "unix socket");
  key_ = std::move(key);
  return {};
}

Result<std::pair<Fd, Fd>> UnixConnector::connect(const model::UnixSocket& accepted,
                                                 const model::UnixSocket& client) {
  model::UnixSocket like = client;
  like.set_type(accepted.type());
  GODWIT_TRY(listen_on(accepted, like));
  GODWIT_ASSIGN(Fd near, open_socket(like));
  if (!client.address().empty()) GODWIT_TRY(bind_unix(near.get(), client.address()));
  GODWIT_TRY(take_credentials(accepted.peer_credentials()));
  GODWIT_TRY(connect_unix(near.get(), accepted.address()));
  Fd far(::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC));
  if (!far.valid()) return fail("accept on", "unix socket");
  GODWIT_TRY(runtime::act_as(0, 0));
  return std::pair(std::move(far), std::move(near));
}

Result<std::pair<Fd, Fd>> UnixConnector::make_pair(const model::UnixSocket& one) {
  GODWIT_TRY(take_credentials(one.peer_credentials()));
  int ends[2];
  if (::socketpair(AF_UNIX, static_cast<int>(one.type()) | SOCK_CLOEXEC, 0, ends) != 0)
    return fail("make", "unix socket pair");
  std::pair made(Fd{ends[0]}, Fd{ends[1]});
  GODWIT_TRY(runtime::act_as(0, 0));
  return made;
}

}  // namespace godwit::runtime
