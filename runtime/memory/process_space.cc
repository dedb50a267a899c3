// The private memory of one process: which of its pages are due in a round, and which are gone.
#include <algorithm>
#include <set>

#include "runtime/memory/memory_spaces.h"

namespace godwit::runtime {
namespace {

bool is_special(const Vma& vma) {
  return vma.name == "[vdso]" || vma.name == "[vsyscall]" || vma.name.starts_with("[vvar");
}

// Whether two mappings that cover an address show the same thing there: what a target may keep when it goes
// from one to the other.
bool same_mapping(const Vma& one, const Vma& other) {
  return one.shared == other.shared && one.inode == other.inode && one.device_major == other.device_major &&
         one.device_minor == other.device_minor &&
         (one.inode == 0 || one.offset - one.start == other.offset - other.start);
}

// Where another mapping is now than in the round before.
Ranges changed_mappings(const std::vector<Vma>& before, const std::vector<Vma>& now) {
  Ranges changed;
  auto old = before.begin();
  auto fresh = now.begin();
  while (old != before.end() && fresh != now.end()) {
    if (!same_mapping(*old, *fresh))
      append_range(changed, {std::max(old->start, fresh->start), std::min(old->end, fresh->end)});
    if (old->end < fresh->end)
      ++old;
    else
      ++fresh;
  }
  return changed;
}

Ranges ranges_of(const std::vector<Vma>& vmas, bool shared) {
  Ranges ranges;
  for (const Vma& vma : vmas)
    if (vma.shared == shared) append_range(ranges, {vma.start, vma.end});
  return ranges;
}

Ranges unite(Ranges one, const Ranges& other) {
  if (other.empty()) return one;
  one.insert(one.end(), other.begin(), other.end());
  normalize(one);
  return one;
}

// Private mappings, and the shared ones that belong to a shared-memory object.
std::vector<Vma> followed_vmas(const std::vector<Vma>& all, const Ranges& shared) {
  std::vector<Vma> vmas;
  auto next = shared.begin();
  for (const Vma& vma : all) {
    while (next != shared.end() && next->end <= vma.start) ++next;
    const bool wanted = vma.shared ? next != shared.end() && next->start < vma.end : !is_special(vma);
    if (wanted) vmas.push_back(vma);
  }
  return vmas;
}

bool is_gone(const Error& error) {
  return error.code == ESRCH || error.code == ENOENT;
}

}  // namespace

ProcessSpace::ProcessSpace(uint64_t space_id, pid_t host_pid, std::unique_ptr<DirtyTracker> tracker)
    : space_id_(space_id), memory_(host_pid), tracker_(std::move(tracker)) {}

void ProcessSpace::set_tracker(std::unique_ptr<DirtyTracker> tracker) {
  tracker_ = std::move(tracker);
  pagemap_.reset();  // it may be that of a program executed before
}

Result<void> ProcessSpace::add_populated(const std::vector<Vma>& vmas, const Ranges& where, Ranges& pages) {
  auto next = where.begin();
  for (const Vma& vma : vmas) {
    if (vma.shared) continue;
    while (next != where.end() && next->end <= vma.start) ++next;
    for (auto range = next; range != where.end() && range->start < vma.end; ++range)
      GODWIT_TRY(pagemap_->populated({std::max(range->start, vma.start), std::min(range->end, vma.end)},
                                     page_class(vma), pages));
  }
  return {};
}

Result<void> ProcessSpace::add_absent(const std::vector<Vma>& vmas, Ranges& pages) {
  for (const Vma& vma : vmas)
    if (!vma.shared) GODWIT_TRY(pagemap_->absent({vma.start, vma.end}, page_class(vma), pages));
  return {};
}

// Without a tracker: every page is due, and is left out by its hash if it did not change.
Result<void> ProcessSpace::compare_all(const std::vector<Vma>& vmas, ProcessFindings& findings) {
  GODWIT_ASSIGN(pagemap_, Pagemap::open(memory_.pid()));
  GODWIT_TRY(add_populated(vmas, ranges_of(vmas, false), findings.written));
  findings.shared_unknown = ranges_of(vmas, true);
  return add_absent(vmas, findings.lost);
}

Result<void> ProcessSpace::ask_last(const std::vector<Vma>& vmas, SharedWork& work, Ranges& fresh,
                                    ProcessFindings& findings) {
  GODWIT_ASSIGN(DirtyTracker::LastRound last, tracker_->collect_last(vmas, work));
  findings.written = std::move(last.written);
  findings.lost = std::move(last.absent);
  fresh = unite(std::move(fresh), last.unfollowed);
  Ranges pages;
  GODWIT_TRY(add_populated(vmas, fresh, pages));
  findings.written = unite(std::move(findings.written), pages);
  return {};
}

Result<void> ProcessSpace::ask_tracker(const std::vector<Vma>& vmas, SharedWork* last_work, Ranges& fresh,
                                       ProcessFindings& findings) {
  if (!pagemap_) {
    GODWIT_ASSIGN(pagemap_, Pagemap::open(memory_.pid()));
  }
  if (last_work != nullptr) {
    GODWIT_TRY(ask_last(vmas, *last_work, fresh, findings));
  } else {
    Ranges replaced;
    GODWIT_ASSIGN(findings.written, tracker_->collect(replaced));
    GODWIT_ASSIGN(DirtyTracker::Followed followed, tracker_->follow(vmas));
    Ranges pages;
    GODWIT_TRY(add_populated(vmas, fresh, pages));  // of mappings that changed
    findings.written = unite(unite(std::move(findings.written), followed.populated), pages);
    fresh = unite(unite(std::move(fresh), replaced), followed.areas);
    GODWIT_TRY(add_absent(vmas, findings.lost));
  }
  findings.shared_unknown = intersect(fresh, ranges_of(vmas, true));
  findings.lost = unite(std::move(findings.lost), intersect(fresh, ranges_of(vmas, false)));
  return {};
}

void ProcessSpace::add_due(const std::vector<Vma>& vmas, const Ranges& due, PageReader& reader) {
  auto next = due.begin();
  PageReader::Run run{
      .kind = SpaceKind::kProcess, .space_id = space_id_, .memory = &memory_, .table = &table_, .range = {}};
  for (const Vma& vma : vmas) {
    while (next != due.end() && next->end <= vma.start) ++next;
    if (vma.shared) continue;
    run.page_class = page_class(vma);
    run.readable = vma.readable;
    for (auto range = next; range != due.end() && range->start < vma.end; ++range) {
      run.range = {std::max(range->start, vma.start), std::min(range->end, vma.end)};
      reader.add(run);
    }
  }
}

Result<ProcessFindings> ProcessSpace::begin_round(const ProcessView& view, const Ranges& shared,
                                                  SharedWork* last_work, PageReader& reader,
                                                  std::vector<Discard>& discards) {
  std::vector<Vma> vmas = followed_vmas(view.vmas, shared);
  ProcessFindings findings;
  Ranges fresh = changed_mappings(vmas_, vmas);
  const Ranges changed = fresh;
  Result<void> asked;
  if (tracker_) asked = ask_tracker(vmas, last_work, fresh, findings);
  if (!asked && asked.error().code == ESRCH) {
    tracker_.reset();
    findings = {};
    asked = {};
  }
  if (!tracker_ && asked) {
    asked = compare_all(vmas, findings);
    findings.lost = unite(std::move(findings.lost), intersect(changed, ranges_of(vmas, false)));
  }
  // A process may end between two looks at it; the next snapshot will not name it any more.
  if (!asked && last_work == nullptr && is_gone(asked.error())) return ProcessFindings{};
  GODWIT_TRY(asked);
  const Ranges private_ranges = ranges_of(vmas, false);
  table_.keep_only(private_ranges);
  for (const Range& range : table_.take(findings.lost))
    discards.push_back({.space_kind = SpaceKind::kProcess, .space_id = space_id_, .range = range});
  add_due(vmas, findings.written, reader);
  vmas_ = std::move(vmas);
  return findings;
}

PageSum ProcessSpace::sum(const std::vector<Range>& kernel_bytes, std::vector<uint64_t>& left_out) {
  PageSum sum = table_.sum();
  std::set<uint64_t> pages;
  for (const Range& bytes : kernel_bytes)
    for (uint64_t at = bytes.start - bytes.start % kPageSize; at < bytes.end; at += kPageSize)
      pages.insert(at);
  for (const uint64_t page : pages) {
    const PageHash* const hash = table_.find(page);
    if (hash == nullptr) continue;
    sum.subtract(page, *hash);
    left_out.push_back(page);
  }
  return sum;
}

Result<void> ProcessSpace::stop() {
  if (!tracker_) return {};
  auto outcome = tracker_->stop();
  tracker_.reset();
  return outcome;
}

}  // namespace godwit::runtime
