// The source side: a survey of all descriptors, and then the readers of each kind.
#include <fcntl.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <set>
#include <utility>

#include "runtime/process/descriptors.h"
#include "runtime/process/descriptors/epoll.h"
#include "runtime/process/descriptors/source.h"
#include "runtime/process/descriptors/survey.h"
#include "runtime/process/descriptors/tcp_state.h"
#include "runtime/process/descriptors/unix_names.h"

namespace godwit::runtime {
namespace {

std::string name_of(const CapturedProcess& process, int number) {
  return "pid " + std::to_string(process.container_pid) + " fd " + std::to_string(number);
}

class Capturer final : public DescriptorCapture {
 public:
  Capturer(Surveyor surveyor, NetworkNamespace network)
      : surveyor_(std::move(surveyor)), network_(std::move(network)) {}
  ~Capturer() override { static_cast<void>(undo()); }

  Result<void> preflight(const std::vector<CapturedProcess>& processes,
                         std::vector<Refusal>& refusals) override;
  Result<void> capture_memory(const std::vector<CapturedProcess>& processes, bool frozen,
                              model::Snapshot& snapshot) override;
  Result<void> capture_live(const std::vector<CapturedProcess>& processes,
                            model::Snapshot& snapshot) override;
  Result<void> capture_frozen(const std::vector<FrozenProcess>& processes,
                              model::Snapshot& snapshot) override;
  Result<void> undo() override;
  Result<int> shared_memory_fd(uint64_t id) override;

 private:
  Result<void> describe(const Survey& survey, size_t index, Moment moment, model::Snapshot& snapshot);
  Result<void> describe_socket(const ObjectFacts& facts, int fd, Moment moment,
                               model::FileDescription& model);
  Result<void> describe_udp(const ObjectFacts& facts, int fd, Moment moment, model::UdpSocket& udp);
  std::string unix_reason(uint64_t inode, const Holder& at);
  Result<void> read_memory(const SurveyedDescription& one, model::Snapshot& snapshot);
  Result<void> read_all_memory(bool frozen, model::Snapshot& snapshot);
  Result<void> use_survey();
  Result<void> add_other_locks(const Survey& survey, size_t index, FdInfo& info);
  Result<void> name_lock_owners(model::RegularFile& file);
  Result<void> read_owner(int fd, model::FileDescription& model);
  Result<void> list_unix_if_needed(const Survey& survey);
  Result<void> fill_tables(const Survey& survey, const std::vector<CapturedProcess>& processes,
                           const std::vector<FrozenProcess>& frozen, model::Snapshot& snapshot);

  struct InRepair {
    Fd socket;
    model::TcpSocket tcp;
  };
  Surveyor surveyor_;
  NetworkNamespace network_;
  std::unordered_map<uint64_t, UnixPeer> unix_;
  Survey survey_;          // of the last capture_memory()
  bool surveyed_ = false;  // and not used yet
  std::map<uint64_t, Fd> memory_;
  std::set<uint64_t> pipes_told_;
  std::set<uint64_t> with_empty_datagrams_;  // sockets, as of an earlier frozen look
  std::vector<InRepair> in_repair_;
  std::vector<CapturedProcess> processes_;
};

// Why a socket or pipe whose kind can be moved cannot be: it leads out of the container.
std::string outward_reason(const Survey& survey, const Knowledge& knowledge, DescriptorThief& thief,
                           const Holder& at, const std::unordered_map<uint64_t, UnixPeer>& sockets) {
  const uint64_t inode = knowledge.facts.status.st_ino;
  if (knowledge.kind == ObjectKind::kUnixSocket) {
    const auto place = sockets.find(inode);
    if (place == sockets.end()) return "unix socket of another network namespace";
    const uint64_t peer = place->second.peer;
    const bool inside =
        peer == 0 || std::ranges::any_of(survey.descriptions, [&](const SurveyedDescription& one) {
          return one.knowledge->kind == ObjectKind::kUnixSocket && one.knowledge->facts.status.st_ino == peer;
        });
    return inside ? "" : "unix socket whose peer is outside of the container";
  }
  if (knowledge.kind != ObjectKind::kPipe) return {};
  const uint32_t side = knowledge.facts.flags & O_ACCMODE;
  const bool paired = std::ranges::any_of(survey.descriptions, [&](const SurveyedDescription& one) {
    return one.knowledge->kind == ObjectKind::kPipe && one.knowledge->facts.status.st_ino == inode &&
           (one.knowledge->facts.flags & O_ACCMODE) != side;
  });
  if (paired || side == O_RDWR) return {};
  const auto copy = thief.take(at.pid, at.number);
  if (!copy) return {};
  pollfd state = {.fd = copy->get(), .events = 0, .revents = 0};
  ::poll(&state, 1, 0);
  return (state.revents & (POLLHUP | POLLERR)) != 0 ? "" : "pipe whose other end is outside of the container";
}

// What the names of a unix socket and its peer say.
std::string Capturer::unix_reason(uint64_t inode, const Holder& at) {
  const UnixPeer& self = unix_[inode];
  const auto copy = surveyor_.thief().take(at.pid, at.number);
  if (!copy) return {};
  ObjectFacts facts;
  model::UnixSocket socket;
  int type = 0;
  socklen_t length = sizeof type;
  if (::getsockopt(copy->get(), SOL_SOCKET, SO_TYPE, &type, &length) != 0) return {};
  facts.type = type;
  if (!read_unix(copy->get(), facts, self, Moment::kLive, socket)) return {};
  if (is_path(socket.address()) && is_bound_itself(socket)) {
    const auto located = locate_bound_file(copy->get(), surveyor_.root(), surveyor_.root_path(), socket);
    if (!located) return "unix socket " + socket.address() + ": " + located.error().to_string();
  }
  const auto peer = unix_.find(self.peer);
  if (peer == unix_.end()) return {};
  if (type == SOCK_DGRAM)
    return peer->second.peer == inode || !peer->second.name.empty()
               ? ""
               : "unix datagram socket connected to one that is neither named nor connected to it";
  std::set<std::string> listeners;
  for (const auto& [number, one] : unix_)
    if (one.state == TCP_LISTEN) listeners.insert(one.name);
  const auto accepted = accepted_end(self.name, peer->second.name, listeners);
  return accepted ? "" : accepted.error().to_string();
}

Result<void> Capturer::list_unix_if_needed(const Survey& survey) {
  const bool needed = std::ranges::any_of(survey.descriptions, [](const SurveyedDescription& one) {
    return one.knowledge->kind == ObjectKind::kUnixSocket;
  });
  unix_.clear();
  if (!needed) return {};
  GODWIT_ASSIGN(unix_, list_unix_sockets(network_));
  return {};
}

Result<void> Capturer::preflight(const std::vector<CapturedProcess>& processes,
                                 std::vector<Refusal>& refusals) {
  GODWIT_ASSIGN(const Survey survey, surveyor_.survey(processes, false));
  GODWIT_TRY(list_unix_if_needed(survey));
  for (const SurveyedDescriptor& one : survey.descriptors) {
    const SurveyedDescription& description = survey.descriptions[one.description];
    const Knowledge& knowledge = *description.knowledge;
    std::string reason = knowledge.reason;
    if (reason.empty()) reason = outward_reason(survey, knowledge, surveyor_.thief(), description.at, unix_);
    if (reason.empty() && knowledge.kind == ObjectKind::kUnixSocket)
      reason = unix_reason(knowledge.facts.status.st_ino, description.at);
    if (reason.empty() && knowledge.kind == ObjectKind::kFile) {
      const auto info = read_fdinfo(description.at.pid, description.at.number);
      if (info && !info->foreign_lock.empty()) reason = "lock of kind " + info->foreign_lock;
    }
    if (!reason.empty())
      refusals.push_back({.pid = processes[one.process].container_pid,
                          .object = "fd " + std::to_string(one.number),
                          .reason = std::move(reason)});
  }
  return {};
}

Result<void> Capturer::describe_socket(const ObjectFacts& facts, int fd, Moment moment,
                                       model::FileDescription& model) {
  const uint64_t inode = facts.status.st_ino;
  if (facts.family == AF_UNIX) {
    const auto place = unix_.find(inode);
    if (place == unix_.end()) return fail("carry", facts.link, EAGAIN, "unknown to sock_diag at this moment");
    model::UnixSocket& socket = *model.mutable_unix_socket();
    GODWIT_TRY(read_unix(fd, facts, place->second, moment, socket));
    if (!is_path(socket.address()) || !is_bound_itself(socket)) return {};
    return locate_bound_file(fd, surveyor_.root(), surveyor_.root_path(), socket);
  }
  if (facts.type == SOCK_DGRAM) return describe_udp(facts, fd, moment, *model.mutable_udp());
  model::TcpSocket& tcp = *model.mutable_tcp();
  const auto outcome = read_tcp(fd, facts, moment, tcp);
  const bool connection =
      tcp.state() == TCP_ESTABLISHED || tcp.state() == TCP_FIN_WAIT1 || tcp.state() == TCP_FIN_WAIT2;
  if (moment == Moment::kFrozen && connection) {
    // Remembered also when reading failed half way: it may be in repair mode already.
    GODWIT_ASSIGN(Fd kept, duplicate(fd));
    model::TcpSocket options;
    *options.mutable_options() = tcp.options();
    in_repair_.push_back({.socket = std::move(kept), .tcp = std::move(options)});
  }
  return outcome;
}

// An empty datagram is seen by the first look only: until it is read, a later one would leave it out.
Result<void> Capturer::describe_udp(const ObjectFacts& facts, int fd, Moment moment, model::UdpSocket& udp) {
  const uint64_t inode = facts.status.st_ino;
  if (moment == Moment::kFrozen && with_empty_datagrams_.contains(inode)) {
    pollfd state = {.fd = fd, .events = POLLIN, .revents = 0};
    if (::poll(&state, 1, 0) > 0 && (state.revents & POLLIN) != 0)
      return fail("carry", facts.link, EAGAIN, "an empty datagram waits to be read");
    with_empty_datagrams_.erase(inode);
  }
  auto outcome = read_udp(fd, facts, moment, udp);
  for (const auto& datagram : udp.queue())
    if (datagram.payload().empty()) with_empty_datagrams_.insert(inode);
  return outcome;
}

Result<void> Capturer::read_memory(const SurveyedDescription& one, model::Snapshot& snapshot) {
  constexpr std::string_view kPrefix = "/memfd:";
  constexpr std::string_view kSuffix = " (deleted)";
  const ObjectFacts& facts = one.knowledge->facts;
  const uint64_t id = facts.status.st_ino;
  const auto entry = std::ranges::find(*snapshot.mutable_shared_memory(), id, &model::SharedMemory::id);
  if (entry != snapshot.mutable_shared_memory()->end()) {
    entry->set_traceless(entry->traceless() || (facts.flags & O_NOATIME) != 0);
    return {};
  }
  Fd& fd = memory_[id];
  if (!fd.valid()) {
    const std::string path = "/proc/" + std::to_string(one.at.pid) + "/fd/" + std::to_string(one.at.number);
    GODWIT_ASSIGN(fd, open_file(path, O_RDONLY | O_NOATIME));
  }
  std::string name = facts.link.substr(kPrefix.size());
  if (name.ends_with(kSuffix)) name.resize(name.size() - kSuffix.size());
  model::SharedMemory memory;
  GODWIT_TRY(read_shared_memory(fd.get(), id, true, name, memory));
  memory.set_traceless((facts.flags & O_NOATIME) != 0);
  *snapshot.add_shared_memory() = std::move(memory);
  return {};
}

// What is open nowhere any more is let go: its memory is the container's to give back.
Result<void> Capturer::read_all_memory(bool frozen, model::Snapshot& snapshot) {
  std::set<uint64_t> found;
  for (const SurveyedDescription& one : survey_.descriptions) {
    if (one.knowledge->kind != ObjectKind::kMemory || !one.knowledge->reason.empty()) continue;
    const auto outcome = read_memory(one, snapshot);
    // Live: closed at this moment.
    if (!outcome && frozen) return outcome;
    if (outcome) found.insert(one.knowledge->facts.status.st_ino);
  }
  std::erase_if(memory_, [&](const auto& entry) { return !found.contains(entry.first); });
  return {};
}

// F_GETOWN_EX and F_GETSIG: who is told by signals. Process ids are told as the container sees them.
Result<void> Capturer::read_owner(int fd, model::FileDescription& model) {
  f_owner_ex owner{};
  if (::fcntl(fd, F_GETOWN_EX, &owner) != 0) return fail("ask the owner of", "descriptor");
  const int signal = ::fcntl(fd, F_GETSIG);
  if (signal > 0) model.set_owner_signal(static_cast<uint32_t>(signal));
  if (owner.pid == 0) return {};
  for (const CapturedProcess& process : processes_) {
    if (process.host_pid != owner.pid) continue;
    model.set_owner_type(static_cast<uint32_t>(owner.type) + 1);
    model.set_owner(process.container_pid);
    return {};
  }
  return refuse("carry", "the owner (F_SETOWN) of a descriptor", "it is no process of the container");
}

// fdinfo tells the fcntl(2) locks of its own process only; a shared description may have those of others.
Result<void> Capturer::add_other_locks(const Survey& survey, size_t index, FdInfo& info) {
  std::set<pid_t> asked = {survey.descriptions[index].at.pid};
  for (const SurveyedDescriptor& one : survey.descriptors) {
    const pid_t pid = processes_[one.process].host_pid;
    if (one.description != index || !asked.insert(pid).second) continue;
    GODWIT_ASSIGN(const FdInfo other, read_fdinfo(pid, one.number));
    for (const FdInfo::Lock& lock : other.locks)
      if (lock.kind == 2) info.locks.push_back(lock);
  }
  return {};
}

Result<void> Capturer::name_lock_owners(model::RegularFile& file) {
  for (model::FileLock& lock : *file.mutable_locks()) {
    if (lock.kind() != 2) continue;
    const auto owner =
        std::ranges::find(processes_, static_cast<pid_t>(lock.pid()), &CapturedProcess::host_pid);
    if (owner == processes_.end())
      return refuse("carry the lock of", file.path(), "its owner is no process of the container");
    lock.set_pid(static_cast<uint32_t>(owner->container_pid));
  }
  return {};
}

Result<void> Capturer::describe(const Survey& survey, size_t index, Moment moment,
                                model::Snapshot& snapshot) {
  const SurveyedDescription& one = survey.descriptions[index];
  const Knowledge& knowledge = *one.knowledge;
  if (!knowledge.reason.empty())
    return refuse("carry", "fd " + std::to_string(one.at.number), knowledge.reason);
  const bool socket = knowledge.facts.link.starts_with("socket:[");
  const bool pipe = knowledge.kind == ObjectKind::kPipe || knowledge.kind == ObjectKind::kFifo;
  Fd copy;
  ObjectFacts facts = knowledge.facts;
  model::FileDescription& model = *snapshot.add_descriptions();
  model.set_id(one.id);
  // A duplicate taken from a running process delays what closing means: FIN, end of file, release of locks.
  if (moment == Moment::kFrozen || socket) {
    GODWIT_ASSIGN(copy, surveyor_.thief().take(one.at.pid, one.at.number));
    const int flags = ::fcntl(copy.get(), F_GETFL);
    if (flags < 0 || ::fstat(copy.get(), &facts.status) != 0) return fail("ask the flags of", facts.link);
    facts.flags = static_cast<uint32_t>(flags);
  }
  if (!socket && (facts.status.st_ino != knowledge.facts.status.st_ino))
    return fail("carry", facts.link, EAGAIN, "the file behind this path was replaced at this moment");
  FdInfo info;
  if (!socket && !pipe) {
    GODWIT_ASSIGN(info, read_fdinfo(one.at.pid, one.at.number));
    facts.flags = info.flags;
  }
  model.set_flags(facts.flags & ~static_cast<uint32_t>(O_CLOEXEC));
  if (copy.valid()) GODWIT_TRY(read_owner(copy.get(), model));
  switch (knowledge.kind) {
    case ObjectKind::kFile:
      GODWIT_TRY(add_other_locks(survey, index, info));
      GODWIT_TRY(read_regular_file(facts, info, knowledge.path, *model.mutable_file()));
      return name_lock_owners(*model.mutable_file());
    case ObjectKind::kDevice:
      read_device(facts, *model.mutable_device());
      model.mutable_device()->set_path(knowledge.path);
      return {};
    case ObjectKind::kPipe:
    case ObjectKind::kFifo: {
      const bool first = pipes_told_.insert(facts.status.st_ino).second;
      return read_pipe(copy.get(), facts, moment, first, *model.mutable_pipe());
    }
    case ObjectKind::kEventCounter:
      return read_event_counter(copy.get(), info, moment, *model.mutable_eventfd());
    case ObjectKind::kEpoll:
      return read_epoll(survey, index, info, processes_, moment, *model.mutable_epoll());
    case ObjectKind::kTimer:
      read_timer(info, *model.mutable_timerfd());
      return {};
    case ObjectKind::kSignal:
      model.mutable_signalfd()->set_mask(info.signal_mask);
      return {};
    case ObjectKind::kUnixSocket:
    case ObjectKind::kTcpSocket:
    case ObjectKind::kUdpSocket:
      return describe_socket(facts, copy.get(), moment, model);
    case ObjectKind::kMemory:
      model.mutable_memory()->set_shared_memory(facts.status.st_ino);
      if (copy.valid())
        model.mutable_memory()->set_position(std::max<off_t>(::lseek(copy.get(), 0, SEEK_CUR), 0));
      return {};
    case ObjectKind::kLog:
      model.mutable_log();
      return {};
    case ObjectKind::kInvalid:
      break;
  }
  return refuse("carry", facts.link, "its kind is unknown");
}

// Close-on-exec belongs to the descriptor, not the description: fdinfo tells it, or the process itself, asked
// once for all its descriptors.
Result<void> Capturer::fill_tables(const Survey& survey, const std::vector<CapturedProcess>& processes,
                                   const std::vector<FrozenProcess>& frozen, model::Snapshot& snapshot) {
  size_t at = 0;
  for (size_t i = 0; i < processes.size(); ++i) {
    model::Process* process = nullptr;
    for (model::Process& one : *snapshot.mutable_processes())
      if (one.pid() == static_cast<uint32_t>(processes[i].container_pid)) process = &one;
    if (process == nullptr) {
      // It ended while it was being read: it is left out of a live snapshot, and a frozen one is taken again.
      if (!frozen.empty())
        return fail("read the descriptors of", name_of(processes[i], 0), EAGAIN, "the process is ending");
      while (at < survey.descriptors.size() && survey.descriptors[at].process == i) ++at;
      continue;
    }
    process->clear_descriptors();
    CallBatch batch;
    Puppet* leader = i < frozen.size() ? frozen[i].leader : nullptr;
    for (; at < survey.descriptors.size() && survey.descriptors[at].process == i; ++at) {
      const SurveyedDescriptor& one = survey.descriptors[at];
      model::Descriptor& model = *process->add_descriptors();
      model.set_number(static_cast<uint32_t>(one.number));
      model.set_description(survey.descriptions[one.description].id);
      if (leader != nullptr) {
        batch.call(SYS_fcntl, {one.number, F_GETFD}, "fcntl F_GETFD");
      } else if (const auto info = read_fdinfo(processes[i].host_pid, one.number)) {
        model.set_close_on_exec((info->flags & O_CLOEXEC) != 0);
      }
    }
    if (batch.empty()) continue;
    GODWIT_TRY(leader->run(batch));
    for (int k = 0; k < process->descriptors_size(); ++k)
      process->mutable_descriptors(k)->set_close_on_exec(
          (batch.result(static_cast<size_t>(k)) & FD_CLOEXEC) != 0);
  }
  return {};
}

Result<void> Capturer::capture_memory(const std::vector<CapturedProcess>& processes, bool frozen,
                                      model::Snapshot& snapshot) {
  processes_ = processes;
  GODWIT_ASSIGN(survey_, surveyor_.survey(processes, frozen));
  surveyed_ = true;
  return read_all_memory(frozen, snapshot);
}

Result<void> Capturer::capture_live(const std::vector<CapturedProcess>& processes,
                                    model::Snapshot& snapshot) {
  GODWIT_TRY(use_survey());
  GODWIT_TRY(list_unix_if_needed(survey_));
  pipes_told_.clear();
  snapshot.clear_descriptions();
  for (size_t i = 0; i < survey_.descriptions.size(); ++i) {
    const int before = snapshot.descriptions_size();
    // What closes or changes at this moment is left out; the frozen snapshot is the one that counts.
    if (!describe(survey_, i, Moment::kLive, snapshot))
      snapshot.mutable_descriptions()->DeleteSubrange(before, snapshot.descriptions_size() - before);
  }
  return fill_tables(survey_, processes, {}, snapshot);
}

// An empty one would say that there are no descriptors.
Result<void> Capturer::use_survey() {
  if (!std::exchange(surveyed_, false))
    return refuse("capture", "the descriptors", "nobody has looked for them");
  return {};
}

Result<void> Capturer::capture_frozen(const std::vector<FrozenProcess>& frozen, model::Snapshot& snapshot) {
  GODWIT_TRY(use_survey());
  GODWIT_TRY(list_unix_if_needed(survey_));
  pipes_told_.clear();
  snapshot.clear_descriptions();
  for (size_t i = 0; i < survey_.descriptions.size(); ++i)
    GODWIT_TRY(describe(survey_, i, Moment::kFrozen, snapshot));
  return fill_tables(survey_, processes_, frozen, snapshot);
}

Result<void> Capturer::undo() {
  Result<void> outcome;
  for (const InRepair& one : in_repair_) {
    auto left = leave_repair_silently(one.socket.get(), one.tcp);
    if (!left && outcome) outcome = std::move(left);
  }
  in_repair_.clear();
  return outcome;
}

Result<int> Capturer::shared_memory_fd(uint64_t id) {
  const auto place = memory_.find(id);
  if (place == memory_.end() || !place->second.valid())
    return refuse("find shared memory", std::to_string(id), "no memfd has this id");
  return place->second.get();
}

}  // namespace

Result<std::unique_ptr<DescriptorCapture>> DescriptorCapture::open(pid_t init_pid,
                                                                   const std::string& log_path) {
  GODWIT_ASSIGN(Surveyor surveyor, Surveyor::open(init_pid, log_path));
  GODWIT_ASSIGN(NetworkNamespace network, NetworkNamespace::of(init_pid));
  return std::make_unique<Capturer>(std::move(surveyor), std::move(network));
}

}  // namespace godwit::runtime
