// The calling thread inside a container's network namespace for the life of a scope (setns(2)).
#pragma once

#include <sys/types.h>

#include "base/fd.h"
#include "base/result.h"

namespace godwit::runtime {

class NetworkNamespace {
 public:
  static Result<NetworkNamespace> of(pid_t pid);

  class Scope {
   public:
    Scope(Scope&& other) noexcept : home_(std::exchange(other.home_, -1)) {}
    Scope(const Scope&) = delete;
    Scope& operator=(const Scope&) = delete;
    Scope& operator=(Scope&&) = delete;
    // Goes back. A thread that cannot go back must not go on in a container's network: the process ends,
    // which leaves every container running.
    ~Scope();

   private:
    friend class NetworkNamespace;
    explicit Scope(int home) : home_(home) {}
    int home_;
  };
  // The scope must not outlive this object.
  [[nodiscard]] Result<Scope> enter() const;

 private:
  NetworkNamespace(Fd home, Fd away) : home_(std::move(home)), away_(std::move(away)) {}
  Fd home_;
  Fd away_;
};

}  // namespace godwit::runtime
