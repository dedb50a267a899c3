#include "engine/host/recovery.h"

#include <spdlog/spdlog.h>
#include <unistd.h>

#include <thread>

#include "engine/host/worker_mark.h"
#include "engine/inquiry.h"
#include "engine/journal.h"
#include "runtime/container/freezer.h"
#include "runtime/network/leftovers.h"

namespace godwit::engine {

using model::ContainerRecord;

void Recovery::recover_all() {
  for (const StoredContainer& container : host_.store.list()) recover(container);
}

void Recovery::recover(const StoredContainer& container) {
  const ContainerRecord& record = container.record;
  switch (container.stage) {
    case Stage::kStarting:  // its user never got an answer
    case Stage::kRemoving:
      spdlog::warn("{}: was {} when the agent ended; removing it", record.id(), stage_name(container.stage));
      return log_failure(record.id(), lifecycle_.delete_all_of(record));
    case Stage::kMigrating:
    case Stage::kArriving: {
      // The container stays as it is until its old worker, if it lives, is through. Nobody joins this thread:
      // it lives as long as the agent does.
      std::thread([this, record, stage = container.stage] {
        const std::string directory = host_.paths(record.id()).directory;
        await_marked_worker(directory);
        remove_worker_mark(directory);
        if (stage == Stage::kArriving) return arrivals_.settle(record, "the agent ended while it arrived");
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
void Recovery::find_again(const StoredContainer& container) {
  const ContainerRecord& record = container.record;
  const auto pid = host_.find_process(record.id());
  if (pid) {
    spdlog::info("{}: found again, pid {}", record.id(), *pid);
    return log_failure(record.id(), lifecycle_.keep(record, *pid));
  }
  if (pid.error().code != ESRCH)
    return log_failure(record.id(), host_.store.settle(record.id(), Stage::kFailed, pid.error().to_string()));
  const auto state = host_.runc.state(record.id());
  if (container.stage == Stage::kFailed && state != runtime::ContainerState::kStopped) return;
  log_failure(record.id(), host_.store.settle(record.id(), Stage::kStopped));
  if (!container.exit) lifecycle_.note_unseen_end(record.id());
}

std::string Recovery::settle_departure(const ContainerRecord& record) {
  const std::string& id = record.id();
  const auto journal = Journal::read(host_.paths(id).journal);
  if (!journal && journal.error().code != ENOENT) {
    // Whose it is cannot be read: then nobody may run it.
    spdlog::error("{}: {}", id, journal.error().to_string());
    log_failure(id, host_.store.settle(id, Stage::kFailed, journal.error().to_string()));
    return "unknown";
  }
  if (journal && journal->committed) {
    spdlog::warn("{}: committed to {}; kept stopped until it is known to run there", id, journal->target);
    std::thread([this, record, target = journal->target, session = journal->session] {
      finish_departure(record, target, session);
    }).detach();
    return "unknown";
  }
  const auto state = host_.runc.state(id);
  if (!journal && state && *state == runtime::ContainerState::kAbsent) {
    // Only a committed session removes a container.
    log_failure(id, host_.network.detach(host_.network_spec(record)));
    log_failure(id, host_.store.erase(id));
    return "target";
  }
  auto running = make_run_again(record);
  if (running) return "source";
  if (running.error().code == ESRCH) {  // it has ended by itself meanwhile
    const auto stored = host_.store.find(id);
    if (stored && !stored->exit) lifecycle_.note_unseen_end(id);
    log_failure(id, host_.store.settle(id, Stage::kStopped));
    return "source";
  }
  log_failure(id, running);
  log_failure(id, host_.store.settle(id, Stage::kFailed, running.error().to_string()));
  return "source";
}

// Undoes everything that a session can do to a container before the commit. All of it may be undone already.
Result<void> Recovery::make_run_again(const ContainerRecord& record) {
  GODWIT_ASSIGN(const pid_t pid, host_.find_process(record.id()));
  GODWIT_ASSIGN(auto freezer, runtime::Freezer::open(pid));
  GODWIT_TRY(freezer.thaw());
  // The container runs; what follows is its pace and its packets, and is tried to the end.
  log_failure(record.id(), host_.runc.update(record.id(), {.memory_bytes = record.memory_limit_bytes(),
                                                           .cpu_millis = record.cpu_millis()}));
  if (const auto attachment = host_.network.find(record.id()))
    log_failure(record.id(), runtime::unpark_leftovers(*attachment));
  else
    log_failure(record.id(), std::unexpected(attachment.error()));
  const auto stored = host_.store.find(record.id());
  if (stored && stored->pid == pid) {
    GODWIT_TRY(host_.store.settle_running(record, pid));
  } else {
    GODWIT_TRY(lifecycle_.keep(record, pid));
  }
  const std::string journal = host_.paths(record.id()).journal;
  if (::unlink(journal.c_str()) != 0 && errno != ENOENT) return fail("remove", journal);
  return {};
}

// The container belongs to the target. Its remains here stay frozen and silent until the target's agent says
// that it runs there; should it say that it never will, nothing was lost and it goes on here.
void Recovery::finish_departure(const ContainerRecord& record, const std::string& target,
                                const std::string& session) {
  const std::string& id = record.id();
  if (const auto attachment = host_.network.find(id)) log_failure(id, runtime::hold_leftovers(*attachment));
  if (const auto pid = host_.runc.init_pid(id)) {
    auto freezer = runtime::Freezer::open(*pid);
    log_failure(id, freezer ? freezer->freeze() : Result<void>(std::unexpected(freezer.error())));
  }
  const auto runs = ask_until(target, session, id, model::Answer::DECISION_RUNNING);
  if (runs) {
    spdlog::info("{}: runs at {}; its remains here are removed", id, target);
    return log_failure(id, lifecycle_.delete_all_of(record));
  }
  spdlog::warn("{}: {}", id, runs.error().to_string());
  if (auto running = make_run_again(record); !running)
    log_failure(id, host_.store.settle(id, Stage::kFailed, running.error().to_string()));
}

}  // namespace godwit::engine
