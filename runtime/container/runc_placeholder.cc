// The placeholder: how a container is made for a replica to grow in.
#include <fcntl.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <string_view>

#include "base/clock.h"
#include "runtime/container/container.h"
#include "runtime/container/oci.h"
#include "runtime/container/runc_files.h"

extern "C" {
extern const char godwit_placeholder_image[];
extern const char godwit_placeholder_image_end[];
}

namespace godwit::runtime {
namespace {

// Both as placeholder.c knows them: runc hands descriptors over from 3 on.
constexpr int kImageFd = 3;
constexpr int kChannelFd = 4;
constexpr int kHelloTimeoutMs = 5000;

// memfd_create(2): kernels before 6.3 do not know MFD_EXEC, and their memfds are executable without.
constexpr unsigned kMfdExec = 0x0010U;

Result<Fd> placeholder_image() {
  const std::string_view image(godwit_placeholder_image, godwit_placeholder_image_end);
  constexpr unsigned kFlags = MFD_CLOEXEC | MFD_ALLOW_SEALING;
  int raw = ::memfd_create("godwit-placeholder", kFlags | kMfdExec);
  if (raw < 0 && errno == EINVAL) raw = ::memfd_create("godwit-placeholder", kFlags);
  const Fd writable(raw);
  if (!writable.valid())
    return fail("create", "an executable memfd", errno, "sysctl vm.memfd_noexec must be below 2");
  if (::write(writable.get(), image.data(), image.size()) != static_cast<ssize_t>(image.size()))
    return fail("write", "the placeholder's memfd");
  if (::fcntl(writable.get(), F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_GROW | F_SEAL_SHRINK | F_SEAL_SEAL) != 0)
    return fail("seal", "the placeholder's memfd");
  // execve(2) fails with ETXTBSY while anybody, runc included, has the file open for writing.
  return open_file("/proc/self/fd/" + std::to_string(writable.get()), O_RDONLY);
}

// It has been executed and is alone in its process when its one byte arrives; the channel hangs up if it
// dies.
Result<void> await_hello(const Fd& channel, const std::string& id) {
  const int64_t deadline_us = monotonic_us() + int64_t{kHelloTimeoutMs} * 1000;
  for (;;) {
    pollfd wait{channel.get(), POLLIN, 0};
    const int64_t left_us = deadline_us - monotonic_us();
    if (left_us <= 0) return fail("wait for the placeholder of", id, ETIMEDOUT);
    const int ready = ::poll(&wait, 1, static_cast<int>(left_us / 1000) + 1);
    if (ready < 0 && errno != EINTR) return fail("wait for the placeholder of", id);
    if (ready <= 0) continue;
    std::array<char, 8> word{};
    const ssize_t got = ::recv(channel.get(), word.data(), word.size(), MSG_DONTWAIT);
    if (got == 1 && word[0] == 'p') return {};
    if (got < 0 && (errno == EINTR || errno == EAGAIN)) continue;
    return refuse("start the placeholder of", id, "it ended at once; does the seccomp profile kill it?");
  }
}

}  // namespace

Result<Placeholder> Runc::run_placeholder(const ContainerSpec& spec) {
  GODWIT_TRY(check_absent(spec));
  GODWIT_ASSIGN(const std::string own, container_config(spec, "/" + cgroup(spec.id)));
  GODWIT_ASSIGN(const Privileges most, own_privileges());
  GODWIT_ASSIGN(const std::string privileged,
                placeholder_config(own, "/proc/self/fd/" + std::to_string(kImageFd), most));
  GODWIT_ASSIGN(const Fd image, placeholder_image());
  std::array<int, 2> ends{};
  if (::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends.data()) != 0)
    return fail("create the channel of", spec.id);
  Placeholder placeholder;
  placeholder.channel = Fd(ends[0]);
  placeholder.channel_fd = kChannelFd;
  Fd theirs(ends[1]);

  auto pid = launch(spec, privileged, {image.get(), theirs.get()});
  theirs.reset();
  GODWIT_TRY(pid);
  placeholder.pid = *pid;
  const auto finish = [&]() -> Result<void> {
    GODWIT_TRY(await_hello(placeholder.channel, spec.id));
    const std::string state_path = root_ + "/" + spec.id + "/state.json";
    GODWIT_ASSIGN(const std::string state, read_file(state_path, kStateBytesMax));
    GODWIT_ASSIGN(const std::string ordinary, state_with_own_process(state, own));
    GODWIT_TRY(replace_file(state_path, ordinary));
    return replace_file(bundles_ + "/" + spec.id + "/config.json", own);
  };
  if (auto finished = finish(); !finished) {
    discard(spec.id);
    return std::unexpected(std::move(finished).error());
  }
  return placeholder;
}

}  // namespace godwit::runtime
