#include "runtime/memory/store_tracker.h"

#include <utility>

#include "runtime/memory/pagemap.h"

namespace godwit::runtime {
namespace {

class StoreTracker final : public DirtyTracker {
 public:
  StoreTracker(Pagemap pagemap, std::function<Ranges()> take_stored)
      : pagemap_(std::move(pagemap)), take_stored_(std::move(take_stored)) {}
  [[nodiscard]] const char* name() const override { return "stored"; }
  Result<Followed> follow(const std::vector<Vma>& vmas) override;
  Result<Ranges> collect(Ranges& replaced) override;
  Result<LastRound> collect_last(const std::vector<Vma>& vmas, SharedWork& work) override;
  Result<void> stop() override { return {}; }

 private:
  Ranges stored();

  Pagemap pagemap_;
  std::function<Ranges()> take_stored_;
  Ranges followed_;
};

Ranges ranges_of(const std::vector<Vma>& vmas) {
  Ranges ranges;
  for (const Vma& vma : vmas) append_range(ranges, {vma.start, vma.end});
  return ranges;
}

Ranges StoreTracker::stored() {
  Ranges ranges = take_stored_();
  normalize(ranges);
  return intersect(ranges, followed_);
}

Result<DirtyTracker::Followed> StoreTracker::follow(const std::vector<Vma>& vmas) {
  Followed followed{.areas = subtract(ranges_of(vmas), followed_), .populated = {}};
  for (const Vma& vma : vmas) {
    if (vma.shared) continue;
    for (const Range& range : intersect(followed.areas, {{vma.start, vma.end}}))
      GODWIT_TRY(pagemap_.populated(range, page_class(vma), followed.populated));
  }
  followed_ = ranges_of(vmas);
  return followed;
}

Result<Ranges> StoreTracker::collect(Ranges&) {
  return stored();
}

Result<DirtyTracker::LastRound> StoreTracker::collect_last(const std::vector<Vma>& vmas, SharedWork&) {
  LastRound last{.written = stored(), .absent = {}, .unfollowed = subtract(ranges_of(vmas), followed_)};
  for (const Vma& vma : vmas)
    if (!vma.shared) GODWIT_TRY(pagemap_.absent({vma.start, vma.end}, page_class(vma), last.absent));
  return last;
}

}  // namespace

Result<std::unique_ptr<DirtyTracker>> make_store_tracker(pid_t pid, std::function<Ranges()> take_stored) {
  GODWIT_ASSIGN(Pagemap pagemap, Pagemap::open(pid));
  return std::make_unique<StoreTracker>(std::move(pagemap), std::move(take_stored));
}

}  // namespace godwit::runtime
