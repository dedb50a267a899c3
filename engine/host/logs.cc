#include "engine/host/logs.h"

#include <poll.h>

namespace godwit::engine {

namespace {
constexpr size_t kPieceBytes = size_t{64} << 10;
constexpr int kLookAgainMs = 100;
}  // namespace

Reply<void> read_logs(const Store& store, OutputLogs& output, const std::string& id, bool follow,
                      const std::function<bool(const std::string&)>& deliver,
                      const std::function<bool()>& cancelled) {
  GODWIT_TRY(store.find(id));
  GODWIT_ASSIGN(const auto reader, or_internal(output.open(id)));
  std::string piece(kPieceBytes, '\0');
  for (;;) {
    // Asked before the read: what is written before the end is still delivered.
    const auto container = store.find(id);
    const bool goes_on =
        container && container->stage != Stage::kStopped && container->stage != Stage::kFailed;
    for (;;) {
      GODWIT_ASSIGN(const size_t got, or_internal(reader->read(piece)));
      if (got == 0) break;
      if (cancelled() || !deliver(piece.substr(0, got))) return {};
    }
    if (!follow || !goes_on || cancelled()) return {};
    ::poll(nullptr, 0, kLookAgainMs);
  }
}

}  // namespace godwit::engine
