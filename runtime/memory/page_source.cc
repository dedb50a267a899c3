#include "runtime/memory/page_source.h"

#include <algorithm>
#include <set>

#include "runtime/memory/memory_spaces.h"
#include "runtime/memory/page_reader.h"

namespace godwit::runtime {

struct PageSource::State {
  std::map<uint64_t, ProcessSpace> processes;
  std::map<uint64_t, SharedSpace> shared;
  PageReader reader;
  PageCounters counters;

  void forget_gone(const MemoryView& view);
  Result<void> begin_process(const MemoryView& view, const ProcessView& process, SharedWork& work,
                             RoundPages& round);
};

// Spaces that the view does not name: the target has removed them too, or never had them.
void PageSource::State::forget_gone(const MemoryView& view) {
  std::set<uint64_t> named;
  for (const ProcessView& process : view.processes) named.insert(process.space_id);
  std::erase_if(processes, [&](const auto& entry) { return !named.contains(entry.first); });
  named.clear();
  for (const SharedMemoryView& object : view.shared_memory) named.insert(object.space_id);
  std::erase_if(shared, [&](const auto& entry) { return !named.contains(entry.first); });
}

Result<void> PageSource::State::begin_process(const MemoryView& view, const ProcessView& process,
                                              SharedWork& work, RoundPages& round) {
  Ranges mapped;
  for (const SharedMemoryView& object : view.shared_memory)
    for (const SharedMemoryView::Mapping& mapping : object.mappings)
      if (mapping.process_space_id == process.space_id) mapped.push_back({mapping.start, mapping.end});
  normalize(mapped);
  const auto known = processes.find(process.space_id);
  if (known != processes.end() && known->second.host_pid() != process.host_pid) processes.erase(known);
  ProcessSpace& space =
      processes.try_emplace(process.space_id, process.space_id, process.host_pid, nullptr).first->second;
  GODWIT_ASSIGN(const ProcessFindings findings,
                space.begin_round(process, mapped, view.frozen ? &work : nullptr, reader, round.discards));
  for (const SharedMemoryView& object : view.shared_memory) {
    SharedSpace& target = shared.try_emplace(object.space_id, object.space_id).first->second;
    target.note_written(object, process.space_id, findings.written);
    target.note_written(object, process.space_id, findings.shared_unknown);
  }
  return {};
}

PageSource::PageSource() : state_(std::make_unique<State>()) {}
PageSource::~PageSource() = default;

void PageSource::add_process(uint64_t space_id, pid_t host_pid, std::unique_ptr<DirtyTracker> tracker) {
  const auto known = state_->processes.find(space_id);
  if (known != state_->processes.end() && known->second.host_pid() == host_pid) {
    known->second.set_tracker(std::move(tracker));
    return;
  }
  state_->processes.erase(space_id);
  state_->processes.try_emplace(space_id, space_id, host_pid, std::move(tracker));
}

Result<RoundPages> PageSource::begin_round(const MemoryView& view) {
  SharedWork alone;
  return begin_round(view, alone);
}

Result<RoundPages> PageSource::begin_round(const MemoryView& view, SharedWork& work) {
  RoundPages round;
  if (!view.frozen) SharedStamps::prepare();
  state_->reader.clear(view.frozen);
  state_->forget_gone(view);
  for (const ProcessView& process : view.processes)
    GODWIT_TRY(state_->begin_process(view, process, work, round));
  for (const SharedMemoryView& object : view.shared_memory) {
    SharedSpace& space = state_->shared.try_emplace(object.space_id, object.space_id).first->second;
    GODWIT_TRY(space.begin_round(object, view.frozen, state_->reader));
  }
  round.pages_due = state_->reader.pages_left();
  return round;
}

Result<size_t> PageSource::fill(std::span<std::byte> buffer) {
  return state_->reader.fill(buffer, state_->counters);
}

uint64_t PageSource::pages_left() const {
  return state_->reader.pages_left();
}

const PageCounters& PageSource::counters() const {
  return state_->counters;
}

PageSum PageSource::sum(const ProcessView& process, std::vector<uint64_t>& left_out) const {
  const auto space = state_->processes.find(process.space_id);
  return space == state_->processes.end() ? PageSum{} : space->second.sum(process.kernel_bytes, left_out);
}

PageSum PageSource::sum(const SharedMemoryView& object) const {
  const auto space = state_->shared.find(object.space_id);
  return space == state_->shared.end() ? PageSum{} : space->second.sum();
}

Result<void> PageSource::stop() {
  Result<void> outcome;
  state_->reader.clear(false);
  for (auto& [id, space] : state_->processes)
    if (auto stopped = space.stop(); !stopped) outcome = std::move(stopped);
  return outcome;
}

}  // namespace godwit::runtime
