#include "engine/host/admission.h"

#include <fmt/format.h>

#include "base/identifier.h"
#include "engine/commit/machine.h"
#include "engine/host/own_addresses.h"
#include "engine/host/validate.h"
#include "engine/protocol/version.h"
#include "engine/session/host_resources.h"
#include "transport/link.h"

namespace godwit::engine {

namespace {
constexpr uint64_t kDeadlineMsMax = 24ULL * 3600 * 1000;
// Kept free for the host itself.
constexpr uint64_t kHostsOwnBytes = 64ULL << 20;
}  // namespace

Admission::Admission(Host& host, std::function<Result<uint64_t>()> available)
    : host_(host), available_(std::move(available)) {}

Result<std::unique_ptr<Admission::Room>> Admission::admit(const model::Hello& hello) {
  const model::ContainerRecord& record = hello.container();
  GODWIT_TRY(check_greeting(hello));
  GODWIT_TRY(validate_record(record));
  const auto refuse_for = [&](const Error& why) {
    return refuse("receive", record.id(), "host " + host_.options.name + ": " + why.to_string());
  };
  if (auto free = check_not_of_host(record); !free) return refuse_for(free.error());
  GODWIT_ASSIGN(auto room, keep_room(hello));
  if (auto added = host_.store.add(record, Stage::kArriving, hello.session()); !added)
    return refuse_for(added.error().error);
  return room;
}

Result<void> Admission::check_greeting(const model::Hello& hello) const {
  if (!is_spoken(hello.version()))
    return refuse(
        "receive", "a container",
        fmt::format("the source speaks protocol version {}, this agent {} to {}: run the same godwitd "
                    "on both, or versions that follow each other",
                    hello.version(), kProtocolVersionLeast, kProtocolVersion));
  const std::string& id = hello.container().id();
  GODWIT_TRY(check_identifier("container id", id));
  GODWIT_TRY(check_identifier("session", hello.session()));
  GODWIT_TRY(check_incarnation(hello.container()));
  if (hello.source_name() == host_.options.name)
    return refuse("receive", id, "source and target are both named " + host_.options.name);
  if (hello.goals().deadline_ms() == 0 || hello.goals().deadline_ms() > kDeadlineMsMax)
    return refuse("receive", id, "its deadline makes no sense");
  if (hello.streams() == 0 || hello.streams() > transport::kStreamsMax ||
      hello.buffer_bytes() > transport::kBufferBytesMax)
    return refuse("receive", id, "its link options make no sense");
  if (hello.extended_state_bytes() > extended_state_bytes())
    return refuse("receive", id,
                  "its threads have processor state that this processor lacks (choose a host with the same "
                  "instruction set extensions)");
  return {};
}

// A copy that was left behind somewhere must not come here as if it were the container.
Result<void> Admission::check_incarnation(const model::ContainerRecord& record) const {
  GODWIT_ASSIGN(const uint64_t highest, host_.sessions.highest_incarnation(record.uid()));
  if (may_arrive(record.incarnation(), highest)) return {};
  return refuse(
      "receive", record.id(),
      fmt::format("host {} has seen incarnation {} of it, and this one is {}: it is a copy that was left "
                  "behind",
                  host_.options.name, highest, record.incarnation()));
}

Result<std::unique_ptr<Admission::Room>> Admission::keep_room(const model::Hello& hello) {
  const std::lock_guard lock(mutex_);
  GODWIT_ASSIGN(const uint64_t available, available_());
  const uint64_t taken = kept_bytes_ + kHostsOwnBytes;
  if (taken > available || hello.memory_bytes() > available - taken)
    return refuse(
        "receive", hello.container().id(),
        fmt::format("it has {} MiB in memory and host {} has {} MiB free, {} MiB of them kept for "
                    "other arrivals",
                    hello.memory_bytes() >> 20, host_.options.name, available >> 20, kept_bytes_ >> 20));
  kept_bytes_ += hello.memory_bytes();
  return std::unique_ptr<Room>(new Room(*this, hello.memory_bytes()));
}

Admission::Room::~Room() {
  const std::lock_guard lock(admission_.mutex_);
  admission_.kept_bytes_ -= bytes_;
}

}  // namespace godwit::engine
