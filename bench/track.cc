// track PID TRACKER SECONDS PERIOD_MS: follows a running process as a migration does, without moving
// anything.
//
// Prints one line: rounds, written pages and milliseconds a round. For bench/trackers.py. Needs root, and a
// cgroup of the process's own.
#include <fmt/format.h>
#include <poll.h>
#include <unistd.h>

#include <cstdlib>

#include "base/clock.h"
#include "runtime/container/freezer.h"
#include "runtime/memory/trackers.h"
#include "runtime/process/puppet.h"

namespace godwit::runtime {
namespace {

Result<std::vector<Vma>> private_mappings(pid_t pid) {
  GODWIT_ASSIGN(std::vector<Vma> vmas, read_maps(pid));
  std::erase_if(vmas, [](const Vma& vma) {
    return vma.shared || vma.name.starts_with("[v");  // vdso, vvar, vsyscall
  });
  return vmas;
}

Result<std::unique_ptr<DirtyTracker>> make(pid_t pid, const char* wanted, Freezer& freezer) {
  GODWIT_ASSIGN(const TrackerChoice choice, choose_tracker(wanted, tracking_abilities()));
  const TrackerFactory factory = tracker_factory(choice.kind, [&](const auto& step) -> Result<void> {
    GODWIT_TRY(freezer.freeze());
    auto outcome = step();
    GODWIT_TRY(freezer.thaw());
    return outcome;
  });
  GODWIT_ASSIGN(auto puppet, Puppet::seize(pid));
  GODWIT_TRY(puppet->wait_stopped());
  GODWIT_TRY(puppet->make_scratch());
  auto tracker = factory(pid, *puppet);
  GODWIT_TRY(puppet->drop_scratch());
  GODWIT_TRY(puppet->release());
  return tracker;
}

Result<void> track(pid_t pid, const char* wanted, int period_ms) {
  GODWIT_ASSIGN(Freezer freezer, Freezer::open(pid));
  GODWIT_ASSIGN(const auto tracker, make(pid, wanted, freezer));
  uint64_t rounds = 0;
  uint64_t pages = 0;
  int64_t spent_ns = 0;
  pollfd input{STDIN_FILENO, POLLIN, 0};
  do {
    const int64_t begun_ns = monotonic_ns();
    Ranges replaced;
    GODWIT_ASSIGN(const Ranges written, tracker->collect(replaced));
    GODWIT_ASSIGN(const std::vector<Vma> vmas, private_mappings(pid));
    GODWIT_TRY(tracker->follow(vmas));
    if (rounds++ != 0) spent_ns += monotonic_ns() - begun_ns;
    pages += total_size(written) / 4096;
  } while (::poll(&input, 1, period_ms) == 0);
  const auto repeated = static_cast<double>(rounds > 1 ? rounds - 1 : 1);
  fmt::print("{{\"tracker\":\"{}\",\"rounds\":{},\"pages\":{:.0f},\"ms\":{:.3f}}}\n", tracker->name(), rounds,
             static_cast<double>(pages) / repeated, static_cast<double>(spent_ns) / 1e6 / repeated);
  return tracker->stop();
}

}  // namespace
}  // namespace godwit::runtime

int main(int count, char** arguments) {
  if (count != 4) return fmt::print(stderr, "usage: track PID TRACKER PERIOD_MS\n"), 2;
  const auto outcome = godwit::runtime::track(std::atoi(arguments[1]), arguments[2], std::atoi(arguments[3]));
  if (!outcome) fmt::print(stderr, "track: {}\n", outcome.error().to_string());
  return outcome ? 0 : 1;
}
