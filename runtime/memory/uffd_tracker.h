// What both userfaultfd trackers have in common: which mappings of a process a userfaultfd(2) follows.
// Internal to runtime/memory.
//
// Registration belongs to the mapping, not to the address: what is unmapped and mapped again is unregistered,
// and so is what mremap(2) has moved. That is how replaced mappings show themselves.
//
// Registering a part of a mapping splits it, and an mremap(2) of the whole fails from then on (EFAULT): the
// container would notice us, and may die of it. Mappings grow and move while we look at them. So no border of
// one that can be registered is ever named: a call takes everything between two mappings that the kernel
// refuses, gaps included, and whatever grows or moves there is registered whole. Should one that is refused
// have grown or moved into it meanwhile, the call fails as a whole, and one looks again.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "base/fd.h"
#include "runtime/memory/dirty_tracker.h"
#include "runtime/memory/pagemap.h"

namespace godwit::runtime {

class UffdTracker : public DirtyTracker {
 public:
  Result<Followed> follow(const std::vector<Vma>& vmas) final;
  Result<Ranges> collect(Ranges& replaced) final;
  Result<LastRound> collect_last(const std::vector<Vma>& vmas, SharedWork& work) final;
  Result<void> stop() override;

 protected:
  UffdTracker(pid_t pid, Fd fd, Pagemap pagemap)
      : pid_(pid), fd_(std::move(fd)), pagemap_(std::move(pagemap)) {}

  // Whether the kernel registers mappings of this kind, as far as /proc/PID/maps tells. The pages of those
  // that it does not are compared in every round.
  [[nodiscard]] virtual bool can_register(const Vma& vma) const = 0;
  // Write-protects a registered range for the first time and appends its populated pages (none of shared
  // memory). False: the mapping changed under our hands.
  virtual Result<bool> arm(Range range, PageClass kind, Ranges& populated) = 0;
  // Appends what was written in a registered range of one mapping, and protects it again; appends to
  // `replaced` the parts whose mapping is not registered.
  virtual Result<void> take(Range range, PageClass kind, Ranges& written, Ranges& replaced) = 0;
  // Before look(), once a round.
  virtual Result<void> prepare_to_look() { return {}; }
  // The same without protecting anything, and the absent private pages. False: (a part of) it is not
  // registered, and nothing was appended. Called by several threads at once, each with a pagemap of its own.
  virtual Result<bool> look(Pagemap& pagemap, Range range, PageClass kind, Ranges& written,
                            Ranges& absent) const = 0;

  [[nodiscard]] std::string describe() const { return "pid " + std::to_string(pid_); }
  Result<void> check_alive() const;

  // What the derived trackers use, too. (Not private data: they are two halves of one thing.)
  const pid_t pid_;
  Fd fd_;
  Pagemap pagemap_;

 private:
  enum class Watch {
    kInvalid = 0,  // not at all: the mapping changed while it was looked at
    kRegistered,
    kCompared,  // the kernel cannot register it
    kNeverWritten,
  };
  // A part of a mapping.
  struct Area {
    Range range;
    PageClass kind = PageClass::kAnonymous;
    Watch watch = Watch::kInvalid;
  };
  // What the last round finds in a piece of an area.
  struct Piece {
    Area area;
    bool registered = true;
    Ranges written;
    Ranges absent;
  };
  Result<std::vector<Area>> cut_at_mappings() const;
  // Appends to `known` what is followed of the mapping, to `fresh` what is not.
  void split(const Vma& vma, size_t& next, std::vector<Area>& known, Ranges& fresh) const;

  // uffd_register.cc
  // A mapping that the kernel has refused, though its kind is registered.
  struct Refused {
    Range range;
    uint64_t inode = 0;
    bool never_written = false;
  };
  [[nodiscard]] const Refused* find_refused(const Vma& vma) const;
  [[nodiscard]] bool is_border(const Vma& vma) const;
  [[nodiscard]] Ranges between_borders(const std::vector<Vma>& vmas) const;
  Result<void> learn_refused();
  Result<bool> register_gap(Range gap) const;
  Result<Ranges> register_all();
  [[nodiscard]] Watch watch_of(const Vma& vma, Range range, const Ranges& registered) const;

  Result<Watch> enrol(Range range, PageClass kind, Watch watch, Followed& followed);
  static void cut_to_pieces(const Area& area, std::vector<Piece>& pieces);
  Result<void> look_at(Pagemap& pagemap, Piece& piece) const;
  Result<void> look_at_all(std::vector<Piece>& pieces, SharedWork& work);

  std::vector<Area> areas_;       // ascending
  std::vector<Refused> refused_;  // ascending
};

// The parts of `range` in each of `vmas` (ascending).
void for_each_part(Range range, const std::vector<Vma>& vmas, const std::function<void(Range)>& visit);

}  // namespace godwit::runtime
