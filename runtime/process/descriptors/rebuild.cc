// The target side: objects are made ahead by prepare(), brought up to date by complete(), and handed into
// each process in one batch of injected calls.
#include <fcntl.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <map>
#include <set>
#include <unordered_map>

#include "runtime/process/descriptors.h"
#include "runtime/process/descriptors/attach.h"
#include "runtime/process/descriptors/hand_over.h"
#include "runtime/process/descriptors/network_scope.h"
#include "runtime/process/descriptors/object.h"
#include "runtime/process/descriptors/target.h"
#include "runtime/process/descriptors/tcp_state.h"
#include "runtime/process/descriptors/unix_stage.h"
#include "runtime/process/descriptors/unix_target.h"

namespace godwit::runtime {
namespace {

using Kind = model::FileDescription;

// What cannot be changed once an object is made. Equal: the object made ahead serves. Empty: it is made in
// the frozen round only.
std::string lasting_part(const model::FileDescription& one) {
  const std::string flags = std::to_string(one.flags()) + " ";
  switch (one.kind_case()) {
    case Kind::kFile:
      return "file " + flags + one.file().path();
    case Kind::kDevice:
      return "device " + flags + one.device().path();
    case Kind::kPipe:
      return "pipe " + flags + std::to_string(one.pipe().pipe()) + one.pipe().fifo_path();
    case Kind::kMemory:
      return "memory " + flags + std::to_string(one.memory().shared_memory());
    case Kind::kLog:
      return "log " + flags;
    case Kind::kEpoll:
      return "epoll";
    case Kind::kTcp:
      return one.tcp().state() == TCP_LISTEN ? "tcp " + one.tcp().SerializeAsString() : "";
    default:
      return {};
  }
}

// Made ahead: what costs time or is shared with mappings, and whose making nobody else can see.
bool is_made_ahead(const model::FileDescription& one) {
  return !lasting_part(one).empty();
}

class Rebuilder final : public DescriptorRebuild {
 public:
  Rebuilder(Fd root, NetworkNamespace network, Fd channel, int channel_there, std::string log_path)
      : root_(std::move(root)),
        network_(std::move(network)),
        unix_(root_.get(), network_),
        channel_(std::move(channel)),
        hand_over_(channel_.get(), channel_there),
        log_path_(std::move(log_path)) {}

  Result<void> prepare(const model::Snapshot& live) override;
  Result<void> complete(const model::Snapshot& frozen, const std::vector<ReplicaProcess>& processes) override;
  [[nodiscard]] const model::AfterCommit& after_commit() const override { return after_commit_; }
  Faults finish() override;
  Faults clean_up() override;
  Result<int> shared_memory_fd(const model::Snapshot& snapshot, uint64_t id) override;
  Result<int> hand_in(const ReplicaProcess& process, int fd) override {
    return hand_over_.hand_in(process, fd);
  }

 private:
  struct Made {
    Fd fd;
    std::string lasting;
  };
  void drop_stale(const model::Snapshot& snapshot);
  Result<void> make_all(const model::Snapshot& snapshot);
  Result<Fd> make(const model::Snapshot& snapshot, const model::FileDescription& one);
  Result<Fd> open_pipe_end(const model::FileDescription& one);
  Result<void> settle(const model::Snapshot& snapshot);
  Result<void> seal(const model::Snapshot& frozen);
  Result<void> fill_process(const model::Snapshot& frozen, const model::Process& model,
                            const ReplicaProcess& process);

  Fd root_;
  NetworkNamespace network_;
  UnixRebuild unix_;
  Fd channel_;
  TableHandOver hand_over_;
  std::string log_path_;
  std::unordered_map<uint64_t, Made> made_;
  std::map<uint64_t, std::pair<Fd, Fd>> pipes_;
  std::unordered_map<uint64_t, Fd> memory_;
  std::vector<uint64_t> connections_;  // descriptions, in the order of after_commit_'s
  model::AfterCommit after_commit_;
};

// Every description of a pipe is an open(2) of its own: several of one end are possible through /proc/PID/fd.
Result<Fd> Rebuilder::open_pipe_end(const model::FileDescription& one) {
  auto& ends = pipes_[one.pipe().pipe()];
  if (!ends.first.valid()) {
    GODWIT_ASSIGN(ends, make_pipe(root_.get(), one.pipe()));
  }
  return open_file("/proc/self/fd/" + std::to_string(ends.second.get()),
                   static_cast<int>(one.flags() & O_ACCMODE) | O_NONBLOCK);
}

Result<Fd> Rebuilder::make(const model::Snapshot& snapshot, const model::FileDescription& one) {
  switch (one.kind_case()) {
    case Kind::kFile:
      return make_file(root_.get(), one.flags(), one.file());
    case Kind::kDevice:
      return make_device(root_.get(), one.flags(), one.device());
    case Kind::kPipe:
      return open_pipe_end(one);
    case Kind::kEventfd:
      return make_event_counter(one.eventfd());
    case Kind::kTimerfd:
      return make_timer(one.timerfd());
    case Kind::kSignalfd:
      return make_signal(one.signalfd());
    case Kind::kTcp:
      return make_tcp(one.tcp());
    case Kind::kUdp:
      return make_udp(one.udp());
    case Kind::kLog:
      return make_log(log_path_, one.flags());
    case Kind::kEpoll: {
      Fd epoll(::epoll_create1(EPOLL_CLOEXEC));
      if (!epoll.valid()) return fail("make", "epoll instance");
      return epoll;
    }
    case Kind::kMemory: {
      GODWIT_ASSIGN(const int memory, shared_memory_fd(snapshot, one.memory().shared_memory()));
      return open_file("/proc/self/fd/" + std::to_string(memory), static_cast<int>(one.flags() & O_ACCMODE));
    }
    default:
      return refuse("make", "file description " + std::to_string(one.id()), "its kind is unknown");
  }
}

void Rebuilder::drop_stale(const model::Snapshot& snapshot) {
  std::unordered_map<uint64_t, std::string> wanted;
  std::set<uint64_t> pipes;
  for (const model::FileDescription& one : snapshot.descriptions()) {
    wanted[one.id()] = lasting_part(one);
    if (one.kind_case() == Kind::kPipe) pipes.insert(one.pipe().pipe());
  }
  std::erase_if(made_, [&](const auto& item) {
    const auto place = wanted.find(item.first);
    return place == wanted.end() || place->second != item.second.lasting || place->second.empty();
  });
  std::erase_if(pipes_, [&](const auto& item) { return !pipes.contains(item.first); });
}

Result<void> Rebuilder::prepare(const model::Snapshot& live) {
  GODWIT_TRY(validate_descriptions(live));
  drop_stale(live);
  GODWIT_ASSIGN(const NetworkNamespace::Scope scope, network_.enter());
  for (const model::FileDescription& one : live.descriptions()) {
    if (!is_made_ahead(one) || made_.contains(one.id())) continue;
    // What cannot be made now (a file of a process that is not there yet) is made by complete(), which says
    // why if it still cannot.
    auto fd = make(live, one);
    if (fd) made_[one.id()] = {.fd = std::move(*fd), .lasting = lasting_part(one)};
  }
  return {};
}

// Listeners first: an established socket in repair mode may join any port, a listener may not.
Result<void> Rebuilder::make_all(const model::Snapshot& snapshot) {
  GODWIT_ASSIGN(UnixRebuild::Made sockets, unix_.make(snapshot));
  for (auto& [id, fd] : sockets) made_[id].fd = std::move(fd);
  *after_commit_.mutable_names() = unix_.staged();
  GODWIT_ASSIGN(const NetworkNamespace::Scope scope, network_.enter());
  for (const bool connected : {false, true}) {
    for (const model::FileDescription& one : snapshot.descriptions()) {
      const bool is_late = one.kind_case() == Kind::kTcp && is_connected(one.tcp());
      if (is_late != connected || made_.contains(one.id())) continue;
      GODWIT_ASSIGN(Fd fd, make(snapshot, one));
      made_[one.id()] = {.fd = std::move(fd), .lasting = lasting_part(one)};
      if (!is_late) continue;
      connections_.push_back(one.id());
      GODWIT_ASSIGN(*after_commit_.add_connections(), plan_of_tcp(made_[one.id()].fd.get(), one.tcp()));
    }
  }
  return {};
}

Result<void> Rebuilder::settle(const model::Snapshot& snapshot) {
  GODWIT_TRY(unix_.settle());
  constexpr uint32_t kSettable = O_APPEND | O_NONBLOCK | O_DIRECT | O_NOATIME;
  for (const model::FileDescription& one : snapshot.descriptions()) {
    const int fd = made_[one.id()].fd.get();
    if (one.kind_case() == Kind::kFile) GODWIT_TRY(settle_file(fd, one.file()));
    if (one.kind_case() == Kind::kPipe)
      GODWIT_TRY(settle_pipe(pipes_[one.pipe().pipe()].second.get(), one.pipe()));
    if (one.kind_case() == Kind::kMemory && ::lseek(fd, one.memory().position(), SEEK_SET) < 0)
      return fail("seek in", "memfd");
    if (::fcntl(fd, F_SETFL, one.flags() & kSettable) != 0)
      return fail("set the flags of", "file description " + std::to_string(one.id()));
    if (one.owner_signal() != 0 && ::fcntl(fd, F_SETSIG, one.owner_signal()) != 0)
      return fail("set the signal of", "file description " + std::to_string(one.id()));
  }
  return {};
}

Result<void> Rebuilder::fill_process(const model::Snapshot& frozen, const model::Process& model,
                                     const ReplicaProcess& process) {
  std::vector<HandedDescriptor> table;
  table.reserve(static_cast<size_t>(model.descriptors_size()));
  for (const model::Descriptor& one : model.descriptors())
    table.push_back({.ours = made_[one.description()].fd.get(),
                     .number = static_cast<int>(one.number()),
                     .close_on_exec = one.close_on_exec()});
  CallBatch batch;
  return hand_over_.run(process, table, batch,
                        [&](CallBatch& calls) { return add_attachments(frozen, model, calls); });
}

// When all pages are stored and all mappings made: from now on nobody writes to them.
Result<void> Rebuilder::seal(const model::Snapshot& frozen) {
  for (const model::SharedMemory& memory : frozen.shared_memory()) {
    const auto made = memory_.find(memory.id());
    if (made != memory_.end()) GODWIT_TRY(seal_memfd(made->second.get(), memory));
  }
  return {};
}

Result<void> Rebuilder::complete(const model::Snapshot& frozen,
                                 const std::vector<ReplicaProcess>& processes) {
  GODWIT_TRY(validate_descriptions(frozen));
  drop_stale(frozen);
  GODWIT_TRY(make_all(frozen));
  GODWIT_TRY(settle(frozen));
  GODWIT_TRY(seal(frozen));
  for (const model::Process& model : frozen.processes()) {
    const ReplicaProcess* found = nullptr;
    for (const ReplicaProcess& one : processes)
      if (one.container_pid == model.pid()) found = &one;
    if (found == nullptr || found->leader == nullptr)
      return refuse("fill the descriptors of", "pid " + std::to_string(model.pid()), "it has no replica");
    GODWIT_TRY(fill_process(frozen, model, *found));
  }
  // Our own ends would keep alive what the container closes.
  pipes_.clear();
  const std::set<uint64_t> kept(connections_.begin(), connections_.end());
  std::erase_if(made_, [&](const auto& item) { return !kept.contains(item.first); });
  return {};
}

Faults Rebuilder::finish() {
  Faults faults;
  for (const model::StagedName& place : after_commit_.names())
    note_fault(faults, put_in_place(root_.get(), place));
  for (size_t i = 0; i < connections_.size(); ++i)
    finish_tcp(made_[connections_[i]].fd.get(), after_commit_.connections(static_cast<int>(i)).tcp(), faults);
  connections_.clear();
  made_.clear();
  memory_.clear();
  return faults;
}

Faults Rebuilder::clean_up() {
  Faults faults;
  for (const model::StagedName& place : unix_.staged()) note_fault(faults, remove_stage(root_.get(), place));
  return faults;
}

Result<int> Rebuilder::shared_memory_fd(const model::Snapshot& snapshot, uint64_t id) {
  for (const model::SharedMemory& memory : snapshot.shared_memory()) {
    if (memory.id() != id) continue;
    Fd& fd = memory_[id];
    if (!fd.valid()) {
      GODWIT_ASSIGN(fd, make_memfd(memory));
    } else if (::ftruncate(fd.get(), static_cast<off_t>(memory.size())) != 0) {
      return fail("size", "shared memory " + std::to_string(id));
    }
    return fd.get();
  }
  return refuse("find shared memory", std::to_string(id), "the snapshot does not list it");
}

}  // namespace

Result<std::unique_ptr<DescriptorRebuild>> DescriptorRebuild::open(pid_t init_pid, Fd channel, int channel_fd,
                                                                   std::string log_path) {
  GODWIT_ASSIGN(Fd root, open_file("/proc/" + std::to_string(init_pid) + "/root", O_PATH | O_DIRECTORY));
  GODWIT_ASSIGN(NetworkNamespace network, NetworkNamespace::of(init_pid));
  return std::make_unique<Rebuilder>(std::move(root), std::move(network), std::move(channel), channel_fd,
                                     std::move(log_path));
}

}  // namespace godwit::runtime
