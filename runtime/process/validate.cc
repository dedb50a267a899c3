#include "runtime/process/validate.h"

#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/user.h>

#include <string>
#include <unordered_map>
#include <unordered_set>

namespace godwit::runtime {
namespace {

constexpr size_t kPathMax = 4096;
constexpr size_t kNameMax = 80;  // PR_SET_VMA_ANON_NAME
constexpr size_t kAuxvMax = 1024;
constexpr size_t kSiginfoSize = 128;
constexpr size_t kXstateMax = 16384;     // with AMX tiles it is 11 KiB
constexpr size_t kXstateMin = 576;       // legacy area and header
constexpr size_t kFilterMax = 4096 * 8;  // BPF_MAXINSNS of struct sock_filter
constexpr int kFiltersMax = 256;
constexpr int kGroupsMax = 65536;
constexpr uint32_t kSignalMax = 64;
constexpr uint32_t kMappingFlags = MAP_PRIVATE | MAP_SHARED | MAP_GROWSDOWN | MAP_NORESERVE | MAP_ANONYMOUS;
constexpr uint32_t kAdviceBits = 0xff;

std::unexpected<Error> bad(const std::string& object, std::string why) {
  return refuse("check snapshot", object, std::move(why));
}

std::string name_of(const model::Process& process) {
  return "pid " + std::to_string(process.pid());
}

std::string name_of(const model::Mapping& mapping) {
  char text[64];
  snprintf(text, sizeof text, " mapping %llx-%llx", static_cast<unsigned long long>(mapping.start()),
           static_cast<unsigned long long>(mapping.end()));
  return text;
}

bool is_path(const std::string& path) {
  return !path.empty() && path.size() < kPathMax && path[0] == '/' && path.find('\0') == std::string::npos;
}

bool is_pid(uint64_t pid) {
  return pid > 0 && pid < kPidMax;
}
bool is_address(uint64_t address) {
  return address < kTaskSize;
}
bool is_range(uint64_t start, uint64_t size) {
  return start < kTaskSize && size <= kTaskSize - start;
}

Result<void> check_mapping(const model::Mapping& mapping, const std::string& process,
                           const std::unordered_set<uint64_t>& shared_memory) {
  const std::string object = process + name_of(mapping);
  if ((mapping.protection() & ~uint32_t{PROT_READ | PROT_WRITE | PROT_EXEC}) != 0) {
    return bad(object, "unknown protection");
  }
  const bool shared = (mapping.flags() & MAP_SHARED) != 0;
  if ((mapping.flags() & ~kMappingFlags) != 0 || shared == ((mapping.flags() & MAP_PRIVATE) != 0)) {
    return bad(object, "unknown flags");
  }
  if (mapping.read_only() && (!shared || (mapping.protection() & PROT_WRITE) != 0)) {
    return bad(object, "read-only, but private or writable");
  }
  if ((mapping.advice() & ~kAdviceBits) != 0) return bad(object, "unknown advice");
  const uint64_t size = mapping.end() - mapping.start();
  if ((mapping.offset() & kPageMask) != 0 || mapping.offset() > uint64_t{INT64_MAX} - size) {
    return bad(object, "impossible offset");
  }
  if (mapping.name().size() > kNameMax || mapping.name().find('\0') != std::string::npos) {
    return bad(object, "impossible name");
  }
  if (mapping.shared_memory() != 0) {
    if (!mapping.path().empty()) return bad(object, "both a file and shared memory");
    if (!shared_memory.contains(mapping.shared_memory())) return bad(object, "of unknown shared memory");
  } else if (!mapping.path().empty()) {
    if (!is_path(mapping.path())) return bad(object, "impossible path");
  } else if (shared) {
    return bad(object, "shared, but of nothing");
  }
  return {};
}

// All inside user space. The order of the parts is left to prctl(PR_SET_MM_MAP), which is called only in the
// frozen round: in the midst of an execve(2) there is none yet.
bool has_good_layout(const model::AddressSpace& memory) {
  for (const uint64_t address :
       {memory.start_code(), memory.end_code(), memory.start_data(), memory.end_data(), memory.start_brk(),
        memory.brk(), memory.start_stack(), memory.arg_start(), memory.arg_end(), memory.env_start(),
        memory.env_end(), memory.vvar_start(), memory.vdso_start()}) {
    if (!is_address(address)) return false;
  }
  return memory.auxv().size() <= kAuxvMax && memory.auxv().size() % 16 == 0 &&
         (memory.vvar_start() & kPageMask) == 0 && (memory.vdso_start() & kPageMask) == 0;
}

Result<void> check_address_space(const model::Process& process,
                                 const std::unordered_set<uint64_t>& shared_memory) {
  const std::string name = name_of(process);
  const model::AddressSpace& memory = process.memory();
  if (!has_good_layout(memory)) return bad(name, "impossible layout of the address space");
  if (memory.mappings_size() > kMappingsMax) return bad(name, "too many mappings");
  uint64_t last_end = 0;
  for (const model::Mapping& mapping : memory.mappings()) {
    if (((mapping.start() | mapping.end()) & kPageMask) != 0 || mapping.start() >= mapping.end() ||
        mapping.end() > kTaskSize) {
      return bad(name + name_of(mapping), "impossible range");
    }
    if (mapping.start() < last_end) return bad(name + name_of(mapping), "overlaps the one before it");
    last_end = mapping.end();
    GODWIT_TRY(check_mapping(mapping, name, shared_memory));
  }
  return {};
}

Result<void> check_tree(const model::Snapshot& snapshot) {
  if (snapshot.processes_size() == 0) return bad("container", "no processes");
  if (snapshot.processes_size() > kProcessesMax) return bad("container", "too many processes");
  std::unordered_set<uint32_t> seen;
  for (const model::Process& process : snapshot.processes()) {
    const std::string name = name_of(process);
    if (!is_pid(process.pid())) return bad(name, "impossible pid");
    if (seen.empty() ? process.parent_pid() != 0 : !seen.contains(process.parent_pid())) {
      return bad(name, "its parent is not listed before it");
    }
    if (seen.empty() && process.pid() != 1) return bad(name, "the first process is not the container's init");
    if (!seen.insert(process.pid()).second) return bad(name, "listed twice");
    if (!is_pid(process.session()) || !is_pid(process.process_group())) {
      return bad(name, "session or process group from outside the container");
    }
  }
  return {};
}

Result<std::unordered_set<uint64_t>> check_shared_memory(const model::Snapshot& snapshot) {
  std::unordered_set<uint64_t> ids;
  for (const model::SharedMemory& memory : snapshot.shared_memory()) {
    const std::string name = "shared memory " + std::to_string(memory.id());
    if (memory.id() == 0 || !ids.insert(memory.id()).second) return bad(name, "impossible or repeated id");
    if (memory.size() > kSharedMemoryMax) return bad(name, "impossible size");
    if (memory.name().size() > 249 || memory.name().find('\0') != std::string::npos) {
      return bad(name, "impossible name");
    }
  }
  return ids;
}

Result<void> check_pending(const google::protobuf::RepeatedPtrField<model::PendingSignal>& pending,
                           const std::string& name) {
  if (pending.size() > kPendingSignalsMax) return bad(name, "too many pending signals");
  for (const model::PendingSignal& signal : pending) {
    if (signal.information().size() != kSiginfoSize) return bad(name, "a pending signal of impossible size");
    int32_t number = 0;
    signal.information().copy(reinterpret_cast<char*>(&number), sizeof number);
    if (number < 1 || number > static_cast<int32_t>(kSignalMax))
      return bad(name, "impossible pending signal");
  }
  return {};
}

Result<void> check_seccomp(const model::Thread& thread, bool frozen, const std::string& name) {
  if (thread.seccomp_mode() > 2) return bad(name, "unknown seccomp mode");
  if (thread.seccomp_filters_size() > kFiltersMax) return bad(name, "too many seccomp filters");
  if (thread.seccomp_filter_flags_size() != 0 &&
      thread.seccomp_filter_flags_size() != thread.seccomp_filters_size()) {
    return bad(name, "seccomp filters and their flags do not match");
  }
  // Filters can be read from a stopped thread only: a live snapshot may know the mode alone.
  const bool has_filters = thread.seccomp_filters_size() != 0;
  if (thread.seccomp_mode() == 2 ? frozen && !has_filters : has_filters) {
    return bad(name, "seccomp mode and filters do not match");
  }
  for (const std::string& filter : thread.seccomp_filters()) {
    if (filter.empty() || filter.size() % 8 != 0 || filter.size() > kFilterMax) {
      return bad(name, "a seccomp filter of impossible size");
    }
  }
  return {};
}

Result<void> check_registers(const model::Thread& thread, const std::string& name) {
  if (thread.general_registers().size() != sizeof(user_regs_struct)) {
    return bad(name, "registers of impossible size");
  }
  if (thread.extended_state().size() < kXstateMin || thread.extended_state().size() > kXstateMax) {
    return bad(name, "extended state of impossible size");
  }
  user_regs_struct registers;
  thread.general_registers().copy(reinterpret_cast<char*>(&registers), sizeof registers);
  if (registers.cs != 0x33) return bad(name, "not a 64-bit thread");
  if (!is_address(registers.rip)) return bad(name, "instruction pointer outside of user space");
  return {};
}

Result<void> check_thread(const model::Thread& thread, bool frozen, const std::string& name) {
  if (frozen) GODWIT_TRY(check_registers(thread, name));
  if (thread.name().size() > 15 || thread.name().find('\0') != std::string::npos) {
    return bad(name, "impossible name");
  }
  if (!is_address(thread.tid_address()) || !is_address(thread.robust_list()) ||
      !is_range(thread.rseq_address(), thread.rseq_length()) ||
      !is_range(thread.stack_pointer_alternate(), thread.stack_size_alternate())) {
    return bad(name, "an address outside of user space");
  }
  if (thread.rseq_length() > 4096) return bad(name, "rseq area of impossible size");
  if (thread.nice() < -20 || thread.nice() > 19) return bad(name, "impossible nice value");
  if (thread.parent_death_signal() < 0 || thread.parent_death_signal() > 64) {
    return bad(name, "impossible parent death signal");
  }
  if (thread.scheduling_priority() < 0 || thread.scheduling_priority() > 99) {
    return bad(name, "impossible scheduling priority");
  }
  if (thread.affinity().size() > 1024) return bad(name, "affinity of impossible size");
  if (thread.credentials().groups_size() > kGroupsMax) return bad(name, "too many groups");
  GODWIT_TRY(check_pending(thread.pending_signals(), name));
  return check_seccomp(thread, frozen, name);
}

Result<void> check_threads(const model::Snapshot& snapshot) {
  std::unordered_set<uint32_t> seen;
  for (const model::Process& process : snapshot.processes()) {
    const std::string name = name_of(process);
    if (process.threads_size() == 0 || process.threads(0).tid() != process.pid()) {
      return bad(name, "its first thread is not its leader");
    }
    for (const model::Thread& thread : process.threads()) {
      const std::string thread_name = name + " thread " + std::to_string(thread.tid());
      if (!is_pid(thread.tid()) || !seen.insert(thread.tid()).second) {
        return bad(thread_name, "impossible or repeated tid");
      }
      GODWIT_TRY(check_thread(thread, snapshot.frozen(), thread_name));
    }
    if (seen.size() > kThreadsMax) return bad("container", "too many threads");
  }
  return {};
}

Result<void> check_timers(const model::Process& process, const std::string& name) {
  if (process.interval_timers_size() > 3) return bad(name, "too many interval timers");
  for (const model::IntervalTimer& timer : process.interval_timers()) {
    if (timer.which() > 2 || timer.value_us() > INT64_MAX / 2 || timer.interval_us() > INT64_MAX / 2) {
      return bad(name, "impossible interval timer");
    }
  }
  if (process.posix_timers_size() > kPosixTimersMax) return bad(name, "too many timers");
  std::unordered_set<uint32_t> ids;
  for (const model::PosixTimer& timer : process.posix_timers()) {
    if (timer.id() > INT32_MAX || !ids.insert(timer.id()).second || timer.signal() > kSignalMax ||
        timer.value_ns() > INT64_MAX || timer.interval_ns() > INT64_MAX || timer.notify_tid() >= kPidMax) {
      return bad(name, "impossible timer " + std::to_string(timer.id()));
    }
  }
  return {};
}

Result<void> check_process(const model::Process& process) {
  const std::string name = name_of(process);
  if (!is_path(process.executable()) || !is_path(process.working_directory()) ||
      !is_path(process.root_directory())) {
    return bad(name, "impossible path of executable, working directory or root");
  }
  if (process.umask() > 0777 || process.dumpable() > 2 || process.oom_score_adj() < -1000 ||
      process.oom_score_adj() > 1000 || process.personality() > UINT32_MAX) {
    return bad(name, "impossible umask, dumpable, oom_score_adj or personality");
  }
  std::unordered_set<uint32_t> signals;
  for (const model::SignalAction& action : process.signal_actions()) {
    if (action.signal() < 1 || action.signal() > kSignalMax || !signals.insert(action.signal()).second ||
        !is_address(action.handler()) || !is_address(action.restorer())) {
      return bad(name, "impossible action of signal " + std::to_string(action.signal()));
    }
  }
  for (const model::ResourceLimit& limit : process.limits()) {
    if (limit.resource() >= RLIM_NLIMITS || limit.soft() > limit.hard()) {
      return bad(name, "impossible resource limit " + std::to_string(limit.resource()));
    }
  }
  GODWIT_TRY(check_timers(process, name));
  return check_pending(process.pending_signals(), name);
}

Result<void> check_descriptors(const model::Snapshot& snapshot) {
  std::unordered_set<uint64_t> descriptions;
  for (const model::FileDescription& description : snapshot.descriptions()) {
    const std::string name = "file description " + std::to_string(description.id());
    if (description.id() == 0 || !descriptions.insert(description.id()).second) {
      return bad(name, "impossible or repeated id");
    }
    if (description.kind_case() == model::FileDescription::KIND_NOT_SET) return bad(name, "of no kind");
    if (description.owner_signal() > kSignalMax) return bad(name, "impossible signal");
  }
  for (const model::Process& process : snapshot.processes()) {
    if (process.descriptors_size() > kDescriptorsMax) return bad(name_of(process), "too many descriptors");
    std::unordered_set<uint32_t> numbers;
    for (const model::Descriptor& descriptor : process.descriptors()) {
      const std::string name = name_of(process) + " fd " + std::to_string(descriptor.number());
      if (descriptor.number() > INT32_MAX / 2 || !numbers.insert(descriptor.number()).second) {
        return bad(name, "impossible or repeated number");
      }
      // While the processes run, a descriptor may be gone before what it stands for could be read.
      if (snapshot.frozen() && !descriptions.contains(descriptor.description()))
        return bad(name, "of no file description");
    }
  }
  return {};
}

}  // namespace

Result<void> validate_memory(const model::Snapshot& snapshot) {
  GODWIT_TRY(check_tree(snapshot));
  GODWIT_ASSIGN(const auto shared_memory, check_shared_memory(snapshot));
  for (const model::Process& process : snapshot.processes()) {
    GODWIT_TRY(check_address_space(process, shared_memory));
  }
  return {};
}

Result<void> validate(const model::Snapshot& snapshot) {
  GODWIT_TRY(validate_memory(snapshot));
  GODWIT_TRY(check_threads(snapshot));
  for (const model::Process& process : snapshot.processes()) GODWIT_TRY(check_process(process));
  return check_descriptors(snapshot);
}

}  // namespace godwit::runtime
