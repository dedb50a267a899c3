// Putting right what a session or an agent that died has left: after a crash the container runs where the
// journal says that it belongs.
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <thread>

#include "engine/inquiry.h"
#include "engine/journal.h"
#include "runtime/container/freezer.h"
#include "tools/godwitd/agent.h"
#include "tools/godwitd/worker_mark.h"

namespace godwit::tools {

using engine::model::ContainerRecord;

namespace {
// It must not run here whatever it waits in: there is no need to hurry.
constexpr int64_t kRemainsFreezeMs = 10'000;

void tell(const std::string& id, const Result<void>& result) {
  if (!result) spdlog::error("{}: {}", id, result.error().to_string());
}
}  // namespace

void Agent::recover_sessions() {
  for (const StoredContainer& container : store_.list()) recover(container);
}

void Agent::recover(const StoredContainer& container) {
  const ContainerRecord& record = container.record;
  switch (container.stage) {
    case Stage::kStarting:  // its user never got an answer
    case Stage::kRemoving:
      spdlog::warn("{}: was {} when the agent ended; removing it", record.id(), stage_name(container.stage));
      return tell(record.id(), delete_all_of(record));
    case Stage::kMigrating:
    case Stage::kArriving: {
      // The container stays as it is until its old worker, if it lives, is through. Nobody joins this thread:
      // it lives as long as the agent does.
      std::thread([this, record, stage = container.stage] {
        const std::string directory = engine::container_paths(options_.root, record.id()).directory;
        await_marked_worker(directory);
        remove_worker_mark(directory);
        if (stage == Stage::kArriving) return settle_arrival(record, "the agent ended while it arrived");
        spdlog::info("{}: after a broken migration it is at the {}", record.id(), settle_departure(record));
      }).detach();
      return;
    }
    case Stage::kStopped:
      if (container.exit) return;
      break;
    default:
      break;
  }
  find_again(container);
}

// An ordinary container of an earlier agent: runs still, or has ended in between.
void Agent::find_again(const StoredContainer& container) {
  const ContainerRecord& record = container.record;
  const auto state = runc_.state(record.id());
  if (!state) return tell(record.id(), store_.settle(record.id(), Stage::kFailed, state.error().to_string()));
  if (*state == runtime::ContainerState::kRunning || *state == runtime::ContainerState::kPaused) {
    if (const auto pid = runc_.init_pid(record.id())) {
      spdlog::info("{}: found again, pid {}", record.id(), *pid);
      return tell(record.id(), keep(record, *pid));
    }
  }
  if (container.stage == Stage::kFailed && *state != runtime::ContainerState::kStopped) return;
  tell(record.id(), store_.settle(record.id(), Stage::kStopped));
  if (!container.exit) note_unseen_end(record.id());
}

std::string Agent::settle_departure(const ContainerRecord& record) {
  const std::string& id = record.id();
  const auto journal = engine::Journal::read(engine::container_paths(options_.root, id).journal);
  if (!journal && journal.error().code != ENOENT) {
    // Whose it is cannot be read: then nobody may run it.
    spdlog::error("{}: {}", id, journal.error().to_string());
    tell(id, store_.settle(id, Stage::kFailed, journal.error().to_string()));
    return "unknown";
  }
  if (journal && journal->committed) {
    spdlog::warn("{}: committed to {}; kept stopped until it is known to run there", id, journal->target);
    std::thread([this, record, target = journal->target, session = journal->session] {
      finish_departure(record, target, session);
    }).detach();
    return "unknown";
  }
  const auto state = runc_.state(id);
  if (!journal && state && *state == runtime::ContainerState::kAbsent) {
    // Only a committed session removes a container.
    tell(id, network_.detach(network_spec(record)));
    tell(id, store_.erase(id));
    return "target";
  }
  auto running = make_run_again(record);
  if (running) return "source";
  if (running.error().code == ESRCH) {  // it has ended by itself meanwhile
    const auto stored = store_.find(id);
    if (stored && !stored->exit) note_unseen_end(id);
    tell(id, store_.settle(id, Stage::kStopped));
    return "source";
  }
  tell(id, running);
  tell(id, store_.settle(id, Stage::kFailed, running.error().to_string()));
  return "source";
}

// Undoes everything that a session can do to a container before the commit. All of it may be undone already.
Result<void> Agent::make_run_again(const ContainerRecord& record) {
  GODWIT_ASSIGN(const pid_t pid, runc_.init_pid(record.id()));
  GODWIT_ASSIGN(auto freezer, runtime::Freezer::open(pid));
  GODWIT_TRY(freezer.thaw());
  // The container runs; what follows is its pace and its packets, and is tried to the end.
  tell(record.id(), runc_.update(record.id(), {.memory_bytes = record.memory_limit_bytes(),
                                               .cpu_millis = record.cpu_millis()}));
  if (const auto attachment = network_.find(record.id()))
    tell(record.id(), runtime::open_port(*attachment));
  else
    tell(record.id(), std::unexpected(attachment.error()));
  const auto stored = store_.find(record.id());
  if (stored && stored->pid == pid) {
    GODWIT_TRY(store_.settle_running(record, pid));
  } else {
    GODWIT_TRY(keep(record, pid));
  }
  const std::string journal = engine::container_paths(options_.root, record.id()).journal;
  if (::unlink(journal.c_str()) != 0 && errno != ENOENT) return fail("remove", journal);
  return {};
}

// The container belongs to the target. Its remains here stay frozen and silent until the target's agent says
// that it runs there; should it say that it never will, nothing was lost and it goes on here.
void Agent::finish_departure(const ContainerRecord& record, const std::string& target,
                             const std::string& session) {
  const std::string& id = record.id();
  if (const auto attachment = network_.find(id)) tell(id, runtime::hold_port(*attachment));
  if (const auto pid = runc_.init_pid(id)) {
    auto freezer = runtime::Freezer::open(*pid);
    tell(id, freezer ? freezer->freeze(Deadline::in_ms(kRemainsFreezeMs))
                     : Result<void>(std::unexpected(freezer.error())));
  }
  const auto runs = engine::ask_until(target, session, id, engine::model::Answer::DECISION_RUNNING);
  if (runs) {
    spdlog::info("{}: runs at {}; its remains here are removed", id, target);
    return tell(id, delete_all_of(record));
  }
  spdlog::warn("{}: {}", id, runs.error().to_string());
  if (auto running = make_run_again(record); !running)
    tell(id, store_.settle(id, Stage::kFailed, running.error().to_string()));
}

}  // namespace godwit::tools
