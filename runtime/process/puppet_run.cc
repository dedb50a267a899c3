// The execution of batches: cutting them, writing them into the scratch, resuming, reading the results; of
// one thread, or of several at the same time.
#include <elf.h>
#include <sys/uio.h>
#include <sys/wait.h>

#include <algorithm>
#include <bit>
#include <cstring>

#include "runtime/process/puppet.h"
#include "runtime/process/puppet_trace.h"
#include "runtime/process/restart.h"
#include "runtime/process/scratch.h"

namespace godwit::runtime {

// Where in the scratch a thread has its frame, its calls and their data.
struct Puppet::Lane {
  uint64_t frame = 0;
  uint64_t calls = 0;
  uint64_t data = 0;
  uint64_t data_size = 0;
  size_t calls_max = 0;
};

Puppet::Lane Puppet::make_lane(uint64_t start, uint64_t size, size_t calls_max) {
  const uint64_t calls = start + kScratchFrameSize;
  const uint64_t data = calls + calls_max * sizeof(ScratchCall);
  return {
      .frame = start, .calls = calls, .data = data, .data_size = start + size - data, .calls_max = calls_max};
}

Puppet::Lane Puppet::whole_lane() const {
  return make_lane(scratch_.start + kScratchFrame, scratch_.size - kScratchFrame, kChunkCallsMax);
}

// Calls [first, last) of a batch and the run of data they need.
struct Puppet::Chunk {
  size_t first = 0;
  size_t last = 0;
  uint64_t data_start = 0;
  uint64_t data_end = 0;
  std::vector<ScratchCall> calls;  // as they are written into the scratch

  void include(uint64_t start, uint64_t end) {
    if (data_start == data_end) {
      data_start = start;
      data_end = end;
    } else {
      data_start = std::min(data_start, start);
      data_end = std::max(data_end, end);
    }
  }
  [[nodiscard]] bool holds(uint64_t offset) const { return offset >= data_start && offset < data_end; }
};

// Takes as many calls as fit. Data is used by the calls beside which it was made, as a rule, so the run from
// the first to the last byte that a chunk touches is short.
Result<Puppet::Chunk> Puppet::next_chunk(const CallBatch& batch, size_t first, const Lane& lane) const {
  Chunk chunk{.first = first, .last = first, .calls = {}};
  while (chunk.last < batch.calls_.size() && chunk.last - first < lane.calls_max) {
    Chunk next = chunk;
    ++next.last;
    for (const auto& argument : batch.calls_[chunk.last].arguments)
      if (argument.is_place) next.include(argument.value, argument.value + argument.size);
    for (bool grown = true; grown;) {  // pointers inside the data pull in what they point to
      grown = false;
      for (const auto& link : batch.links_) {
        if (!next.holds(link.where)) continue;
        const Chunk before = next;
        next.include(link.target, link.target + link.target_size);
        grown = grown || next.data_start != before.data_start || next.data_end != before.data_end;
      }
    }
    if (next.data_end - next.data_start > lane.data_size) break;
    chunk = next;
  }
  if (chunk.last == first)
    return fail("inject into", name(), E2BIG,
                batch.calls_[first].what + " needs more memory than the scratch has");
  return chunk;
}

Result<void> Puppet::prepare_frame(const Lane& lane) {
  if (!frame_.empty() && frame_address_ == lane.frame) return {};
  std::vector<std::byte> state(kScratchFrameSize);
  iovec place = vector_of(state.data(), state.size());
  if (trace(PTRACE_GETREGSET, tid_, NT_X86_XSTATE, &place) != 0)
    return fail("read the extended registers of", name());
  GODWIT_ASSIGN(
      frame_, make_return_frame(registers_, signal_mask_, std::span(state).first(place.iov_len), lane.frame));
  frame_address_ = lane.frame;
  return {};
}

// Puts the addresses that the calls will see into them and into their data.
void Puppet::resolve(CallBatch& batch, Chunk& chunk, const Lane& lane) {
  const auto final_address = [&](uint64_t offset) { return lane.data + (offset - chunk.data_start); };
  for (const auto& link : batch.links_) {
    if (!chunk.holds(link.where)) continue;
    const uint64_t address = final_address(link.target);
    std::memcpy(batch.data_.data() + link.where, &address, sizeof address);
  }
  chunk.calls.reserve(chunk.last - chunk.first);
  for (size_t i = chunk.first; i < chunk.last; ++i) {
    const auto& from = batch.calls_[i];
    ScratchCall to{.number = from.number, .arguments = {}, .result = from.may_fail ? 0 : 1};
    for (size_t k = 0; k < std::size(to.arguments); ++k)
      to.arguments[k] =
          from.arguments[k].is_place ? final_address(from.arguments[k].value) : from.arguments[k].value;
    chunk.calls.push_back(to);
  }
}

// Writes the chunk into the lane and lets the thread run there; finish_chunk() has to follow.
Result<void> Puppet::start_chunk(CallBatch& batch, Chunk& chunk, const Lane& lane) {
  resolve(batch, chunk, lane);
  // Whoever dies with its tracer needs no way back.
  if ((options_ & PTRACE_O_EXITKILL) == 0) GODWIT_TRY(prepare_frame(lane));
  const iovec local[] = {vector_of(frame_.data(), frame_.size()),
                         vector_of(chunk.calls.data(), chunk.calls.size() * sizeof(ScratchCall)),
                         vector_of(batch.data_.data() + chunk.data_start, chunk.data_end - chunk.data_start)};
  const iovec remote[] = {vector_of(std::bit_cast<void*>(lane.frame), local[0].iov_len),
                          vector_of(std::bit_cast<void*>(lane.calls), local[1].iov_len),
                          vector_of(std::bit_cast<void*>(lane.data), local[2].iov_len)};
  const size_t total = local[0].iov_len + local[1].iov_len + local[2].iov_len;
  if (::process_vm_writev(tid_, local, 3, remote, 3, 0) != static_cast<ssize_t>(total))
    return fail("write the scratch of", name());
  return enter_scratch(lane, chunk.calls.size());
}

Result<void> Puppet::finish_chunk(CallBatch& batch, Chunk& chunk, const Lane& lane) {
  GODWIT_TRY(leave_scratch());
  const iovec local[] = {vector_of(chunk.calls.data(), chunk.calls.size() * sizeof(ScratchCall)),
                         vector_of(batch.data_.data() + chunk.data_start, chunk.data_end - chunk.data_start)};
  const iovec remote[] = {vector_of(std::bit_cast<void*>(lane.calls), local[0].iov_len),
                          vector_of(std::bit_cast<void*>(lane.data), local[1].iov_len)};
  if (::process_vm_readv(tid_, local, 2, remote, 2, 0) !=
      static_cast<ssize_t>(local[0].iov_len + local[1].iov_len))
    return fail("read the scratch of", name());
  for (size_t i = chunk.first; i < chunk.last; ++i) {
    auto& call = batch.calls_[i];
    call.result = chunk.calls[i - chunk.first].result;
    if (call.may_fail || !is_error(call.result)) continue;
    return fail(call.what.empty() ? "inject system call " + std::to_string(call.number) : call.what,
                "in " + name(), static_cast<int>(-call.result));
  }
  return {};
}

Result<void> Puppet::check_ready() {
  if (!seized_ || !stopped_) return fail("inject into", name(), ESRCH, "it is not stopped by us");
  if (!scratch_.valid()) return refuse("inject into", name(), "it has no scratch mapping");
  return leave_restartable_sequence();
}

Result<void> Puppet::run_from(CallBatch& batch, size_t first) {
  const Lane lane = whole_lane();
  for (size_t next = first; next < batch.calls_.size();) {
    GODWIT_ASSIGN(Chunk chunk, next_chunk(batch, next, lane));
    GODWIT_TRY(start_chunk(batch, chunk, lane));
    GODWIT_TRY(finish_chunk(batch, chunk, lane));
    next = chunk.last;
  }
  return {};
}

Result<void> Puppet::run(CallBatch& batch) {
  if (batch.empty()) return {};
  GODWIT_TRY(check_ready());
  return run_from(batch, 0);
}

namespace {

Result<void> of(const Injection& injection, Result<void> outcome) {
  if (!outcome.has_value() && !injection.whose.empty())
    outcome.error().object += " (" + injection.whose + ")";
  return outcome;
}

}  // namespace

struct Puppet::Started {
  Injection* injection;
  Chunk chunk;
  Lane lane;
};

Result<void> Puppet::start_in_lane(Injection& injection, size_t number, std::vector<Started>& started) {
  Puppet& puppet = *injection.puppet;
  GODWIT_TRY(puppet.check_ready());
  const Lane lane =
      make_lane(puppet.scratch_.start + kScratchFrame + number * kLaneSize, kLaneSize, kLaneCallsMax);
  GODWIT_ASSIGN(Chunk chunk, puppet.next_chunk(injection.batch, 0, lane));
  GODWIT_TRY(puppet.start_chunk(injection.batch, chunk, lane));
  started.push_back({.injection = &injection, .chunk = std::move(chunk), .lane = lane});
  return {};
}

// What has been started is waited for, whatever becomes of the others.
Result<void> Puppet::run_group(std::span<Injection> group) {
  std::vector<Started> started;
  Result<void> outcome;
  for (size_t i = 0; i < group.size() && outcome.has_value(); ++i)
    if (!group[i].batch.empty()) outcome = of(group[i], start_in_lane(group[i], i, started));
  for (auto& [injection, chunk, lane] : started) {
    auto finished = of(*injection, injection->puppet->finish_chunk(injection->batch, chunk, lane));
    if (outcome.has_value()) outcome = std::move(finished);
  }
  // What did not fit into a lane follows alone.
  for (auto& [injection, chunk, lane] : started)
    if (outcome.has_value())
      outcome = of(*injection, injection->puppet->run_from(injection->batch, chunk.last));
  return outcome;
}

Result<void> Puppet::run_together(std::span<Injection> injections) {
  while (!injections.empty()) {
    const size_t count = std::min(injections.size(), kScratchLanes);
    GODWIT_TRY(run_group(injections.first(count)));
    injections = injections.subspan(count);
  }
  return {};
}

Result<int64_t> Puppet::call(long number, std::initializer_list<CallBatch::Argument> arguments,
                             std::string what) {
  if (scratch_.valid()) {
    CallBatch batch;
    batch.call(number, arguments, std::move(what));
    GODWIT_TRY(run(batch));
    return batch.result(0);
  }
  uint64_t plain[6] = {};
  size_t count = 0;
  for (const auto& argument : arguments)
    if (count < std::size(plain)) plain[count++] = argument.value;
  GODWIT_ASSIGN(const int64_t result, call_bare(static_cast<uint64_t>(number), plain));
  if (is_error(result))
    return fail(what.empty() ? "inject system call " + std::to_string(number) : what, "in " + name(),
                static_cast<int>(-result));
  return result;
}

Result<void> Puppet::enter_scratch(const Lane& lane, size_t calls) {
  user_regs_struct registers = registers_;
  registers.rip = scratch_.start;
  registers.r12 = lane.calls;
  registers.r13 = calls;
  registers.rsp = lane.frame + sizeof(uint64_t);
  registers.eflags = kSyscallFlags;
  registers.orig_rax = kNoSystemCall;
  // The registers before the mask: what dies with a tracer between the two must not keep a foreign mask, and
  // comes back from its frame.
  if (trace(PTRACE_SETREGS, tid_, 0, &registers) != 0) return fail("set the registers of", name());
  const uint64_t mask = kRunMask;
  if (trace(PTRACE_SETSIGMASK, tid_, sizeof mask, &mask) != 0) {
    const int code = errno;
    static_cast<void>(restore());
    return fail("set the signal mask of", name(), code);
  }
  if (trace(PTRACE_CONT, tid_) == 0) return {};
  const int code = errno;
  static_cast<void>(restore());
  return fail("resume", name(), code);
}

// The thread's own registers and mask come back whatever happened in between.
Result<void> Puppet::leave_scratch() {
  auto done = wait_until_done(Deadline::in_ms(patience_ms_));
  if (!seized_ || lost_) return done;
  const auto restored = restore();
  return done.has_value() ? restored : done;
}

Result<void> Puppet::wait_until_done(Deadline deadline) {
  const uint64_t end = scratch_.start + scratch_done_offset();
  for (;;) {
    auto waited = wait_status(deadline);
    if (!waited.has_value() && waited.error().code == EAGAIN) {
      lost_ = true;
      stopped_ = false;
      waited.error().code = ETIMEDOUT;
    }
    GODWIT_ASSIGN(const int status, std::move(waited));
    GODWIT_ASSIGN(const bool done, take_stop(status, end));
    if (done) return {};
    if (trace(PTRACE_CONT, tid_) != 0) return fail("resume", name());
  }
}

// Whether the thread, which stopped with `status`, has come to the end of its calls.
Result<bool> Puppet::take_stop(int status, uint64_t end) {
  const int event = status >> 16;
  if (event == PTRACE_EVENT_CLONE || event == PTRACE_EVENT_FORK || event == PTRACE_EVENT_VFORK) {
    uint64_t child = 0;
    if (trace(PTRACE_GETEVENTMSG, tid_, 0, &child) == 0) newborn_.push_back(static_cast<pid_t>(child));
    return false;
  }
  if (event != 0) return false;
  if (WSTOPSIG(status) == SIGSTOP) {
    held_stop_ = true;
    return false;
  }
  if (WSTOPSIG(status) != kDoneSignal)
    return fail("inject into", name(), 0,
                "it was stopped by signal " + std::to_string(WSTOPSIG(status)) + " inside the scratch code");
  user_regs_struct now{};
  if (trace(PTRACE_GETREGS, tid_, 0, &now) != 0) return fail("read the registers of", name());
  siginfo_t information{};
  if (trace(PTRACE_GETSIGINFO, tid_, 0, &information) != 0) return fail("read a signal of", name());
  if (now.rip == end && information.si_code == SI_TKILL) return true;
  held_signals_.push_back(information);
  return false;
}

Result<void> Puppet::restore() {
  if (trace(PTRACE_SETSIGMASK, tid_, sizeof signal_mask_, &signal_mask_) != 0)
    return fail("restore the signal mask of", name());
  if (trace(PTRACE_SETREGS, tid_, 0, &registers_) != 0) return fail("restore the registers of", name());
  return {};
}

}  // namespace godwit::runtime
