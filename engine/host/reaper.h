// Waits for the first processes of containers, and buries orphans.
//
// `runc create` ends and leaves the container's first process to the nearest subreaper, which the agent is
// (prctl(2), PR_SET_CHILD_SUBREAPER). So the exit status can be waited for. A container that an earlier agent
// started belongs to somebody else; its status is then read from its zombie, or from the kernel's memory of
// it (PIDFD_GET_INFO, Linux 6.15).
#pragma once

#include <sys/types.h>

#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <thread>

#include "base/fd.h"
#include "engine/host/store.h"

namespace godwit::engine {

class Reaper {
 public:
  using OnExit = std::function<void(const std::string& id, const ExitStatus& exit)>;

  // Makes this process a subreaper and starts the thread that calls `on_exit`.
  static Result<std::unique_ptr<Reaper>> start(OnExit on_exit);
  // Any thread. `pid` is alive, or has just ended. ESRCH: it is gone already.
  Result<void> watch(const std::string& id, pid_t pid);
  ~Reaper();
  Reaper(const Reaper&) = delete;
  Reaper& operator=(const Reaper&) = delete;

 private:
  struct Watched {
    std::string id;
    pid_t pid = 0;
  };
  explicit Reaper(OnExit on_exit) : on_exit_(std::move(on_exit)) {}
  void loop();
  void bury(int pidfd);
  void bury_traced();
  void bury_orphans();

  OnExit on_exit_;
  Fd epoll_;
  Fd wake_;
  std::mutex mutex_;
  std::map<int, Watched> watched_;  // by pidfd
  // The thread's own from here on. What has ended and was reported, but has a tracer (a worker), which has to
  // wait for it first.
  std::set<pid_t> traced_;
  std::map<pid_t, int64_t> zombies_since_us_;
  int64_t orphans_sought_us_ = 0;
  std::thread thread_;
};

}  // namespace godwit::engine
