// A child process to practise on: it runs a function, and is killed and reaped when the object goes.
#pragma once

#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <functional>
#include <new>

namespace godwit::runtime::test {

// Shared between the test and its victim.
struct Shared {
  std::atomic<uint64_t> ready{0};     // the victim has set itself up
  std::atomic<uint64_t> rounds{0};    // rounds of checking itself that it has done
  std::atomic<uint64_t> failures{0};  // checks that found something wrong
  std::atomic<uint64_t> asked{0};     // the test wants something
  std::atomic<uint64_t> value[16]{};
};

// For children of a victim: they go when it goes.
inline void die_with_parent() {
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
}

class Victim {
 public:
  explicit Victim(const std::function<void(Shared&)>& body) {
    void* memory = ::mmap(nullptr, sizeof(Shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    shared_ = new (memory) Shared;
    pid_ = ::fork();
    if (pid_ == 0) {
      die_with_parent();
      body(*shared_);
      ::_exit(0);
    }
  }
  Victim(const Victim&) = delete;
  Victim& operator=(const Victim&) = delete;
  ~Victim() {
    if (pid_ > 0) {
      ::kill(pid_, SIGKILL);
      ::waitpid(pid_, nullptr, __WALL);
    }
    ::munmap(shared_, sizeof(Shared));
  }
  [[nodiscard]] pid_t pid() const { return pid_; }
  [[nodiscard]] Shared& shared() const { return *shared_; }
  // Waits until the counter is at least `value`; false after ten seconds or when the victim has died.
  [[nodiscard]] bool wait_for(const std::atomic<uint64_t>& counter, uint64_t value) {
    for (int i = 0; i < 20000; ++i) {
      if (counter.load() >= value) return true;
      ::usleep(500);
    }
    return false;
  }
  [[nodiscard]] bool wait_ready(uint64_t value = 1) { return wait_for(shared_->ready, value); }
  // Still alive, and it goes on checking itself.
  [[nodiscard]] bool runs() { return wait_for(shared_->rounds, shared_->rounds.load() + 2); }

 private:
  Shared* shared_ = nullptr;
  pid_t pid_ = -1;
};

}  // namespace godwit::runtime::test
