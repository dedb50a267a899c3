#include "runtime/process/leftovers.h"

#include <sys/uio.h>

#include <algorithm>
#include <bit>
#include <map>
#include <memory>
#include <optional>

#include "runtime/kernel/thread_state.h"
#include "runtime/memory/address_space.h"
#include "runtime/process/capture/member.h"
#include "runtime/process/capture/registers.h"
#include "runtime/process/scratch.h"
#include "runtime/process/tracer_thread.h"

namespace godwit::runtime {
namespace {

constexpr int64_t kHoldMs = 100;
constexpr int kHoldRoundsMax = 64;  // of looks for threads that are not held

bool has_ended(const Error& error) {
  return error.code == ESRCH || error.code == ENOENT;
}

std::optional<Scratch> marked_scratch(pid_t pid, const Vma& vma) {
  if (vma.shared || vma.writable || !vma.executable || vma.inode != 0) return std::nullopt;
  ScratchMark mark{};
  const iovec local{.iov_base = &mark, .iov_len = sizeof mark};
  const iovec remote{.iov_base = std::bit_cast<void*>(vma.start + kScratchMark), .iov_len = sizeof mark};
  if (vma.end - vma.start < kScratchPage || ::process_vm_readv(pid, &local, 1, &remote, 1, 0) != sizeof mark)
    return std::nullopt;
  if (mark != make_scratch_mark({.start = vma.start, .size = mark.size})) return std::nullopt;
  // What a program may have copied from a scratch is none.
  if (mark.size % kScratchPage != 0 || mark.size < kScratchSizeMin || mark.size > kScratchSizeMax)
    return std::nullopt;
  return Scratch{.start = vma.start, .size = mark.size};
}

using Held = std::map<pid_t, std::unique_ptr<Puppet>>;

// One that is ending is passed over.
Result<void> hold_thread(pid_t tid, Held& held) {
  auto puppet = Puppet::seize(tid);
  if (!puppet.has_value()) {
    const char state = thread_state(tid);
    if (state == '?' || state == 'Z' || state == 'X') return {};
    return std::unexpected(puppet.error());
  }
  const auto stopped = (*puppet)->wait_stopped(Deadline::in_ms(kHoldMs));
  if (!stopped.has_value()) {
    (*puppet)->abandon();
    return has_ended(stopped.error()) ? Result<void>() : stopped;
  }
  held[tid] = *std::move(puppet);
  return {};
}

// Until a look finds no thread that is not held.
Result<void> hold_all(pid_t pid, Held& held) {
  for (int round = 0; round < kHoldRoundsMax; ++round) {
    GODWIT_ASSIGN(const auto tids, list_threads(pid));
    bool found = false;
    for (const pid_t tid : tids) {
      if (held.contains(tid)) continue;
      GODWIT_TRY(hold_thread(tid, held));
      found = found || held.contains(tid);
    }
    if (!found) return {};
  }
  return fail("stop", thread_name(pid), EAGAIN, "its threads come faster than they can be stopped");
}

Result<void> drop(const Scratch& scratch, const Held& held) {
  for (const auto& [tid, puppet] : held)
    if (scratch.contains(puppet->registers().rip))
      return fail("take the scratch out of", thread_name(tid), EAGAIN, "it is still on its way through it");
  Puppet& puppet = *held.begin()->second;
  puppet.adopt_scratch(scratch);
  return puppet.drop_scratch();
}

Result<void> remove_from(pid_t pid) {
  auto scratches = find_scratches(pid);
  GODWIT_TRY(scratches);
  if (scratches->empty()) return {};
  Held held;
  GODWIT_TRY(hold_all(pid, held));
  if (held.empty()) return {};
  // Again, now that it cannot execute another program or unmap it.
  GODWIT_ASSIGN(const auto found, find_scratches(pid));
  Result<void> outcome;
  for (const Scratch& scratch : found)
    if (outcome.has_value()) outcome = drop(scratch, held);
  for (auto& [tid, puppet] : held) {
    const auto released = release_unnoticed(*puppet);
    if (outcome.has_value() && !released.has_value() && !has_ended(released.error())) outcome = released;
  }
  return outcome;
}

}  // namespace

Result<std::vector<Scratch>> find_scratches(pid_t pid) {
  const auto mappings = read_maps(pid);
  if (!mappings.has_value() && has_ended(mappings.error())) return std::vector<Scratch>{};
  GODWIT_TRY(mappings);
  std::vector<Scratch> found;
  for (const Vma& vma : *mappings)
    if (const auto scratch = marked_scratch(pid, vma)) found.push_back(*scratch);
  return found;
}

Result<void> remove_leftovers(std::span<const pid_t> pids) {
  Result<void> outcome;
  for (const pid_t pid : pids) {
    run_as_tracer([&] {
      auto removed = remove_from(pid);
      if (outcome.has_value() && !removed.has_value() && !has_ended(removed.error()))
        outcome = std::move(removed);
    });
  }
  return outcome;
}

}  // namespace godwit::runtime
