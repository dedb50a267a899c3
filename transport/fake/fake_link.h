// A Link in the memory of one process, for tests of what lies above links: no sockets, no threads of its own,
// and faults that happen where the test wants them.
//
// It keeps the contract of transport/link.h with one buffer where a real link has two: sender and receiver
// see the same memory, one after the other. So a sender that writes after submit() is seen at once. The ends
// may be destroyed in any order; the memory lives as long as one of them. What was submitted before the
// sender went is still received.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>

#include "base/result.h"
#include "transport/link.h"

namespace godwit::transport {

// Batches are numbered from 0 over all streams, in the order of their submission.
struct FakeFaults {
  // The link is cut (ECONNRESET at both ends) once so many batches have been submitted. Those arrive, but
  // their credits do not get back, so a barrier after the last of them fails. 0: it is cut from the start.
  std::optional<uint64_t> cut_after;
  // The byte in the middle of this batch arrives inverted. The link does not notice.
  std::optional<uint64_t> corrupt;
  // Every batch arrives so long after its submission.
  int64_t delay_ns = 0;
};

struct FakeLink {
  std::unique_ptr<LinkSender> sender;
  std::unique_ptr<LinkReceiver> receiver;
};

// EINVAL for options that a real link would refuse, too.
Result<FakeLink> make_fake_link(const LinkOptions& options, const FakeFaults& faults = {});

}  // namespace godwit::transport
