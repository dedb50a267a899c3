// What a container wrote to stdout and stderr.
#include <poll.h>

#include "tools/godwitd/agent.h"

namespace godwit::tools {

namespace {
constexpr size_t kPieceBytes = size_t{64} << 10;
constexpr int kLookAgainMs = 100;
}  // namespace

Answer<void> Agent::logs(const std::string& id, bool follow,
                         const std::function<bool(const std::string&)>& deliver,
                         const std::function<bool()>& cancelled) {
  GODWIT_TRY(store_.find(id));
  GODWIT_ASSIGN(const auto reader, or_internal(output_->open(id)));
  std::string piece(kPieceBytes, '\0');
  for (;;) {
    // Asked before the read: what is written before the end is still delivered.
    const auto container = store_.find(id);
    const bool goes_on =
        container && container->stage != Stage::kStopped && container->stage != Stage::kFailed;
    for (;;) {
      GODWIT_ASSIGN(const size_t got, or_internal(reader->read(piece)));
      if (got == 0) break;
      if (cancelled() || ending_ || !deliver(piece.substr(0, got))) return {};
    }
    if (!follow || !goes_on || cancelled() || ending_) return {};
    ::poll(nullptr, 0, kLookAgainMs);
  }
}

}  // namespace godwit::tools
