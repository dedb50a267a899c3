// Timeline: every phase of a migration with microsecond stamps, of both ends on one clock.
//
// Phases nest by name: "cutover/freeze" lies inside "cutover". Each end records on its own monotonic clock;
// the source shifts the target's entries by the clock difference it has measured (clock_sync.h). Threads:
// one.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/clock.h"
#include "engine/protocol/events.pb.h"

namespace godwit::engine {

class Timeline {
 public:
  explicit Timeline(std::string side) : side_(std::move(side)) {}

  // Records the phase from its construction to its end() or destruction.
  class Phase {
   public:
    Phase(Timeline& timeline, std::string name)
        : timeline_(&timeline), name_(std::move(name)), start_us_(monotonic_us()) {}
    Phase(const Phase&) = delete;
    Phase& operator=(const Phase&) = delete;
    ~Phase() { end(); }
    void end();

   private:
    Timeline* timeline_;
    std::string name_;
    int64_t start_us_;
  };
  [[nodiscard]] Phase phase(std::string name) { return {*this, std::move(name)}; }
  void add(const std::string& phase, int64_t start_us, int64_t end_us);
  // What another thread has recorded on the same clock.
  void append(const Timeline& other);

  // On this host's monotonic clock.
  [[nodiscard]] const std::vector<model::TimelineEntry>& entries() const { return entries_; }

 private:
  std::string side_;
  std::vector<model::TimelineEntry> entries_;
};

}  // namespace godwit::engine
