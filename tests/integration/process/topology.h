// A client's network namespace and those of two hosts, joined by a bridge.
#pragma once

#include <fcntl.h>
#include <sched.h>
#include <unistd.h>

#include <cstdlib>
#include <string>

#include "base/fd.h"

namespace godwit::runtime::test {

// Taken before any fork: names must be the same in all children.
inline const pid_t kTestPid = ::getpid();

inline int run(const std::string& command) {
  return std::system((command + " 2>/dev/null").c_str());
}

// Namespaces: the client's, and two hosts' with the same address and hardware address; one link is up at a
// time.
class Topology {
 public:
  Topology() {
    std::string all;
    for (const char* host : {"s", "t"}) {
      const std::string there = name(host);
      const std::string here = std::string("c") + host;
      if (all.empty())
        all = "ip netns add " + name("c") + " && ip netns exec " + name("c") +
              " ip link add br0 type bridge forward_delay 0 && ip -n " + name("c") +
              " addr add 10.9.0.1/24 dev br0 && ip -n " + name("c") + " link set br0 up";
      all += " && ip netns add " + there + " && ip -n " + name("c") + " link add " + here +
             " type veth peer name eth0 netns " + there + " && ip -n " + there +
             " link set eth0 address 02:00:00:00:00:07 && ip -n " + there +
             " addr add 10.9.0.2/24 dev eth0 && ip -n " + there + " link set eth0 up && ip -n " + there +
             " neigh replace 10.9.0.1 lladdr 02:00:00:00:00:01 dev eth0" + " && ip -n " + name("c") +
             " link set " + here + " master br0";
    }
    all += " && ip -n " + name("c") + " link set br0 address 02:00:00:00:00:01 && ip -n " + name("c") +
           " neigh replace 10.9.0.2 lladdr 02:00:00:00:00:07 dev br0 && ip -n " + name("c") +
           " link set cs up";
    good = run(all) == 0;
  }
  ~Topology() {
    for (const char* one : {"c", "s", "t"}) run("ip netns del " + name(one));
  }
  Topology(const Topology&) = delete;
  Topology& operator=(const Topology&) = delete;
  static std::string name(const char* host) { return "gwd" + std::to_string(kTestPid) + host; }
  // Ends the process on failure: nothing of this test may happen in the machine's own namespace.
  static void enter(const char* host) {
    const Fd there(::open(("/run/netns/" + name(host)).c_str(), O_RDONLY | O_CLOEXEC));
    if (::setns(there.get(), CLONE_NEWNET) != 0) ::_exit(1);
  }
  static void link(const char* which, const char* state) {
    run("ip -n " + name("c") + " link set " + which + " " + state);
  }
  bool good = false;
};

}  // namespace godwit::runtime::test
