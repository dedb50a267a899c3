// Admission: may this container come here? Asked of a source's greeting before anything is made for it.
//
// A container that is admitted has its id, its address and the place of its anti-affinity group (they are in
// the store, as arriving), and room in memory is kept for all of it until its arrival is over. Its pages come
// in meanwhile and count twice, as kept and as used: an arrival is rather refused for a while than let in
// where there is no room.
//
// Threads: all members may be called at once.
#pragma once

#include <functional>
#include <memory>
#include <mutex>

#include "engine/host/host.h"
#include "engine/protocol/session.pb.h"

namespace godwit::engine {

class Admission {
 public:
  // Room in memory that is kept until this goes.
  class Room {
   public:
    ~Room();
    Room(const Room&) = delete;
    Room& operator=(const Room&) = delete;

   private:
    friend class Admission;
    Room(Admission& admission, uint64_t bytes) : admission_(admission), bytes_(bytes) {}
    Admission& admission_;
    const uint64_t bytes_;
  };

  // `available`: how much memory the host has free.
  Admission(Host& host, std::function<Result<uint64_t>()> available);

  // An error is for the source to read, and says which host it is of.
  Result<std::unique_ptr<Room>> admit(const model::Hello& hello);

 private:
  [[nodiscard]] Result<void> check_greeting(const model::Hello& hello) const;
  [[nodiscard]] Result<void> check_incarnation(const model::ContainerRecord& record) const;
  Result<std::unique_ptr<Room>> keep_room(const model::Hello& hello);

  Host& host_;
  const std::function<Result<uint64_t>()> available_;
  std::mutex mutex_;
  uint64_t kept_bytes_ = 0;
};

}  // namespace godwit::engine
