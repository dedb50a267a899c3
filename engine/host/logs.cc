#include "engine/host/logs.h"

#include <fcntl.h>
#include <poll.h>
#include <unistd.h>

namespace godwit::engine {

namespace {
constexpr size_t kPieceBytes = size_t{64} << 10;
constexpr int kLookAgainMs = 100;
}  // namespace

Reply<void> read_logs(const Host& host, const std::string& id, bool follow,
                      const std::function<bool(const std::string&)>& deliver,
                      const std::function<bool()>& cancelled) {
  GODWIT_TRY(host.store.find(id));
  const std::string path = host.paths(id).log;
  auto file = open_file(path, O_RDONLY);
  // A container that arrived has no log here until it writes one.
  if (!file && file.error().code == ENOENT) file = open_file(path, O_RDONLY | O_CREAT, 0600);
  if (!file) return deny(DenialKind::kInternal, file.error());
  std::string piece(kPieceBytes, '\0');
  for (;;) {
    // Asked before the read: what is written before the end is still delivered.
    const auto container = host.store.find(id);
    const bool goes_on =
        container && container->stage != Stage::kStopped && container->stage != Stage::kFailed;
    ssize_t got = 0;
    while ((got = ::read(file->get(), piece.data(), piece.size())) > 0)
      if (cancelled() || !deliver(piece.substr(0, static_cast<size_t>(got)))) return {};
    if (got < 0 && errno != EINTR) return deny(DenialKind::kInternal, fail("read", path).error());
    if (!follow || !goes_on || cancelled()) return {};
    ::poll(nullptr, 0, kLookAgainMs);
  }
}

}  // namespace godwit::engine
