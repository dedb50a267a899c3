// godwit migrate: the feed of one migration, until its result.
#include <fmt/format.h>
#include <poll.h>

#include <atomic>
#include <csignal>
#include <iostream>
#include <optional>
#include <thread>

#include "tools/godwit/commands.h"
#include "tools/godwit/exit_codes.h"
#include "tools/godwit/render.h"
#include "tools/godwit/terminal.h"

namespace godwit::tools {

using engine::model::MigrationEvent;
using engine::model::MigrationResult;

namespace {

constexpr int kLookMs = 20;
// What a cancelled migration takes at most to thaw its container, or to finish a commit.
constexpr int kSettleMs = 15'000;

volatile std::sig_atomic_t interrupted = 0;

// Cancels the call when the user presses Ctrl-C: leaving is how a client cancels a migration.
class CancelOnInterrupt {
 public:
  explicit CancelOnInterrupt(grpc::ClientContext& context) : watcher_([this, &context] { watch(context); }) {
    (void)std::signal(SIGINT, [](int) { interrupted = 1; });
    (void)std::signal(SIGTERM, [](int) { interrupted = 1; });
  }
  ~CancelOnInterrupt() {
    over_ = true;
    watcher_.join();
    (void)std::signal(SIGINT, SIG_DFL);
    (void)std::signal(SIGTERM, SIG_DFL);
  }
  CancelOnInterrupt(const CancelOnInterrupt&) = delete;
  CancelOnInterrupt& operator=(const CancelOnInterrupt&) = delete;

 private:
  void watch(grpc::ClientContext& context) const {
    while (!over_ && interrupted == 0) ::poll(nullptr, 0, kLookMs);
    if (!over_) context.TryCancel();
  }
  std::atomic<bool> over_ = false;
  std::thread watcher_;
};

void show(const MigrationEvent& event, bool json) {
  if (!event.has_state() && !event.has_round() && !event.has_link()) return;
  if (json)
    std::cout << dump(json_of(event)) << std::endl;
  else if (stdout_is_terminal())
    std::cout << fmt::format("{:>9}  ", fmt::format("{:.3f} s", static_cast<double>(event.at_us()) / 1e6))
              << progress_of(event) << std::endl;
}

int exit_code_of(const MigrationResult& result) {
  if (result.succeeded()) return kDone;
  if (!result.refusals().empty()) return kRefused;
  return result.container_at() == "source" || result.container_at() == "target" ? kFailed : kUnknown;
}

int conclude(const MigrationResult& result, const MigrateOptions& options) {
  if (options.json) {
    std::cout << dump(json_of(result)) << std::endl;
  } else if (result.succeeded()) {
    std::cout << summary_of(result);
    if (options.timeline) std::cout << "\n" << timeline_of(result, terminal_columns());
  }
  if (!result.succeeded()) {
    if (!options.json)
      for (const engine::model::Refused& refused : result.refusals())
        std::cout << "  " << line_of(refused) << "\n";
    print_error(fmt::format("{} ({})", result.error(),
                            result.container_at() == "unknown"
                                ? "where the container is, is not known yet: see ps of both agents"
                                : fmt::format("the container is at the {}", result.container_at())));
  }
  return exit_code_of(result);
}

// The call was broken off. The agent undoes the migration, or completes it if it was committed: look which.
int settle(Client& client, const std::string& id, const std::string& why) {
  for (int waited_ms = 0; waited_ms < kSettleMs; waited_ms += 100) {
    grpc::ClientContext context;
    api::v1::ListResponse list;
    if (!client.agent().List(&context, {}, &list).ok()) break;
    const api::v1::Container* found = nullptr;
    for (const api::v1::Container& container : list.containers())
      if (container.id() == id) found = &container;
    if (found == nullptr) {
      print_error(why + ", too late: the container has moved");
      return kFailed;
    }
    if (found->state() != api::v1::CONTAINER_STATE_MIGRATING) {
      print_error(fmt::format("{}; the container is {} here", why, state_name(found->state())));
      return kFailed;
    }
    ::poll(nullptr, 0, 100);
  }
  print_error(why + "; what became of the container is not known: see ps of both agents");
  return kUnknown;
}

}  // namespace

int migrate(Client& client, const MigrateOptions& options) {
  grpc::ClientContext context;
  std::optional<MigrationResult> result;
  bool begun = false;
  grpc::Status status;
  {
    const CancelOnInterrupt cancel(context);
    const auto reader = client.agent().Migrate(&context, options.request);
    MigrationEvent event;
    while (reader->Read(&event)) {
      begun = true;
      if (event.has_result()) result = event.result();
      show(event, options.json);
    }
    status = reader->Finish();
  }
  if (result) return conclude(*result, options);
  if (interrupted != 0) return settle(client, options.request.id(), "cancelled");
  if (begun) return settle(client, options.request.id(), "the agent broke off its feed");
  if (status.ok()) {
    print_error("the agent ended the migration without a result; see ps of both agents");
    return kUnknown;
  }
  return client.report(status);
}

}  // namespace godwit::tools
