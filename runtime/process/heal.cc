#include "runtime/process/heal.h"

#include <fcntl.h>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <map>
#include <set>
#include <string>

#include "base/fd.h"
#include "runtime/process/descriptors/table.h"
#include "runtime/process/descriptors/target.h"
#include "runtime/process/descriptors/unix_stage.h"

namespace godwit::runtime {
namespace {

template <typename Value>
Result<Value> ask(int socket, int level, int name, const std::string& whose) {
  Value value{};
  socklen_t length = sizeof value;
  if (::getsockopt(socket, level, name, &value, &length) != 0) return fail("ask the state of", whose);
  return value;
}

Result<void> tell(int socket, int level, int name, int value, const std::string& whose) {
  if (::setsockopt(socket, level, name, &value, sizeof value) != 0) return fail("heal", whose);
  return {};
}

struct HeldSocket {
  Fd fd;
  std::string name;
  int family = 0;
  int protocol = 0;
  [[nodiscard]] bool is_tcp() const { return protocol == IPPROTO_TCP && family != AF_UNIX; }
};

bool has_vanished(const Error& error) {
  return error.code == ENOENT || error.code == ESRCH || error.code == EBADF;
}

Result<HeldSocket> take(DescriptorThief& thief, pid_t pid, int number) {
  HeldSocket socket;
  socket.name = "socket of pid " + std::to_string(pid) + " fd " + std::to_string(number);
  GODWIT_ASSIGN(socket.fd, thief.take(pid, number));
  GODWIT_ASSIGN(socket.family, ask<int>(socket.fd.get(), SOL_SOCKET, SO_DOMAIN, socket.name));
  GODWIT_ASSIGN(socket.protocol, ask<int>(socket.fd.get(), SOL_SOCKET, SO_PROTOCOL, socket.name));
  return socket;
}

// The sockets that the processes hold, each once: a socket is known by its number, which its link shows.
std::vector<HeldSocket> collect_sockets(const std::vector<pid_t>& pids, Faults& faults) {
  std::vector<HeldSocket> sockets;
  std::set<std::string> seen;
  DescriptorThief thief;
  for (const pid_t pid : pids) {
    auto table = list_table(pid);
    if (!table) {
      if (!has_vanished(table.error())) faults.push_back(std::move(table).error());
      continue;
    }
    for (const TableEntry& entry : *table) {
      if (!entry.link.starts_with("socket:[") || seen.contains(entry.link)) continue;
      auto socket = take(thief, pid, entry.number);
      if (socket) {
        seen.insert(entry.link);
        sockets.push_back(*std::move(socket));
      } else if (!has_vanished(socket.error())) {
        faults.push_back(std::move(socket).error());
      }
    }
  }
  return sockets;
}

Result<in_port_t> local_port(const HeldSocket& socket) {
  sockaddr_storage address{};
  socklen_t length = sizeof address;
  if (::getsockname(socket.fd.get(), reinterpret_cast<sockaddr*>(&address), &length) != 0)
    return fail("ask the port of", socket.name);
  // At the same place for both families.
  return reinterpret_cast<const sockaddr_in*>(&address)->sin_port;
}

// SO_REUSEADDR of the listeners, by port.
std::map<in_port_t, int> listeners_of(const std::vector<HeldSocket>& sockets, Faults& faults) {
  std::map<in_port_t, int> listeners;
  for (const HeldSocket& socket : sockets) {
    if (!socket.is_tcp()) continue;
    const auto listening = ask<int>(socket.fd.get(), SOL_SOCKET, SO_ACCEPTCONN, socket.name);
    if (!listening || *listening == 0) continue;
    const auto reuse = ask<int>(socket.fd.get(), SOL_SOCKET, SO_REUSEADDR, socket.name);
    const auto port = local_port(socket);
    if (reuse && port)
      listeners[*port] = *reuse;
    else
      faults.push_back(reuse ? port.error() : reuse.error());
  }
  return listeners;
}

Result<void> heal_tcp(const HeldSocket& socket, RepairEnd how, const std::map<in_port_t, int>& listeners) {
  GODWIT_ASSIGN(const int repaired, ask<int>(socket.fd.get(), IPPROTO_TCP, TCP_REPAIR, socket.name));
  if (repaired == 0) return {};
  GODWIT_TRY(tell(socket.fd.get(), IPPROTO_TCP, TCP_REPAIR,
                  how == RepairEnd::kSilently ? TCP_REPAIR_OFF_NO_WP : TCP_REPAIR_OFF, socket.name));
  GODWIT_ASSIGN(const in_port_t port, local_port(socket));
  const auto listener = listeners.find(port);
  const int reuse = listener == listeners.end() ? 1 : listener->second;
  return tell(socket.fd.get(), SOL_SOCKET, SO_REUSEADDR, reuse, socket.name);
}

Result<void> heal_peek_offset(const HeldSocket& socket) {
  GODWIT_ASSIGN(const int offset, ask<int>(socket.fd.get(), SOL_SOCKET, SO_PEEK_OFF, socket.name));
  if (offset < 0) return {};
  return tell(socket.fd.get(), SOL_SOCKET, SO_PEEK_OFF, -1, socket.name);
}

void heal(const std::vector<HeldSocket>& sockets, RepairEnd how, Faults& faults) {
  const auto listeners = listeners_of(sockets, faults);
  for (const HeldSocket& socket : sockets) {
    if (socket.is_tcp()) note_fault(faults, heal_tcp(socket, how, listeners));
    if (socket.family == AF_UNIX || socket.protocol == IPPROTO_UDP)
      note_fault(faults, heal_peek_offset(socket));
  }
}

Result<Fd> root_of(pid_t pid) {
  return open_file("/proc/" + std::to_string(pid) + "/root", O_PATH | O_DIRECTORY);
}

void finish_connections(const std::vector<HeldSocket>& sockets, const model::AfterCommit& plan,
                        Faults& faults) {
  std::map<uint64_t, const model::TcpSocket*> left;
  for (const model::Connection& one : plan.connections()) left[one.cookie()] = &one.tcp();
  for (const HeldSocket& socket : sockets) {
    if (!socket.is_tcp()) continue;
    const auto cookie = ask<uint64_t>(socket.fd.get(), SOL_SOCKET, SO_COOKIE, socket.name);
    if (!cookie) {
      faults.push_back(cookie.error());
      continue;
    }
    const auto planned = left.find(*cookie);
    if (planned == left.end()) continue;
    finish_tcp(socket.fd.get(), *planned->second, faults);
    left.erase(planned);
  }
  for (const auto& [cookie, tcp] : left)
    note_fault(faults, refuse("find", "TCP socket with cookie " + std::to_string(cookie),
                              "no process of the replica holds it"));
}

}  // namespace

Faults leave_repair_mode(const std::vector<pid_t>& host_pids, RepairEnd how) {
  Faults faults;
  heal(collect_sockets(host_pids, faults), how, faults);
  return faults;
}

Faults release_held(pid_t init_pid, const std::vector<pid_t>& host_pids, const model::AfterCommit& plan) {
  Faults faults;
  const auto root = root_of(init_pid);
  if (!root) faults.push_back(root.error());
  if (root)
    for (const model::StagedName& place : plan.names())
      note_fault(faults, put_in_place_once(root->get(), place));
  const auto sockets = collect_sockets(host_pids, faults);
  finish_connections(sockets, plan, faults);
  heal(sockets, RepairEnd::kWithProbe, faults);
  note_faults(faults, clean_up_held(init_pid, plan));
  return faults;
}

Faults clean_up_held(pid_t init_pid, const model::AfterCommit& plan) {
  Faults faults;
  const auto root = root_of(init_pid);
  if (!root) return {root.error()};
  for (const model::StagedName& place : plan.names()) note_fault(faults, remove_stage(root->get(), place));
  return faults;
}

}  // namespace godwit::runtime
