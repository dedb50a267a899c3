#include "runtime/memory/page_sink.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <map>
#include <mutex>
#include <shared_mutex>
#include <utility>

#include "runtime/memory/batch.h"
#include "runtime/memory/process_memory.h"
#include "runtime/memory/range_set.h"

namespace godwit::runtime {
namespace {

using SpaceKey = std::pair<SpaceKind, uint64_t>;

std::string describe(const Extent& extent) {
  const char* kind = extent.space_kind == SpaceKind::kProcess ? "process " : "shared memory ";
  return kind + std::to_string(extent.space_id) + " at " + std::to_string(extent.start);
}

struct OpenSpace {
  explicit OpenSpace(PageSink::Space described) : space(std::move(described)), memory(space.host_pid) {}
  PageSink::Space space;
  ProcessMemory memory;
  uint64_t size = 0;  // kSharedMemory, bytes
};

bool contains(const Ranges& allowed, Range range) {
  if (allowed.empty()) return true;
  const auto after = std::ranges::upper_bound(allowed, range.start, {}, &Range::start);
  return after != allowed.begin() && range.end <= std::prev(after)->end;
}

Result<void> check_bounds(const OpenSpace& target, const Extent& extent) {
  const Range range{extent.start, extent.start + extent.size};
  const uint64_t size = (target.size + kPageSize - 1) / kPageSize * kPageSize;
  const bool inside =
      extent.space_kind == SpaceKind::kProcess ? contains(target.space.allowed, range) : range.end <= size;
  if (!inside) return fail("store pages in", describe(extent), EBADMSG, "the space does not reach there");
  return {};
}

// The last page of an object may reach beyond its end: what is there does not exist, and must not make it
// longer.
Result<void> write_shared(const OpenSpace& target, Range range, const std::byte* from) {
  const uint64_t end = std::min(range.end, target.size);
  for (uint64_t at = range.start; at < end;) {
    const ssize_t put =
        ::pwrite(target.space.fd, from + (at - range.start), end - at, static_cast<off_t>(at));
    if (put < 0 && errno == EINTR) continue;
    if (put <= 0) return fail("write shared memory", std::to_string(target.space.id), put < 0 ? errno : EIO);
    at += static_cast<uint64_t>(put);
  }
  return {};
}

Result<void> punch_shared(const OpenSpace& target, Range range) {
  if (::fallocate(target.space.fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                  static_cast<off_t>(range.start), static_cast<off_t>(range.size())) != 0)
    return fail("empty pages of shared memory", std::to_string(target.space.id));
  return {};
}

}  // namespace

struct PageSink::State {
  mutable std::shared_mutex mutex;  // apply() shares it
  std::map<SpaceKey, OpenSpace> spaces;
  std::atomic<uint64_t> bytes_stored{0};
  std::atomic<bool> lists_kept{false};
  std::mutex lists_mutex;
  std::map<uint64_t, Ranges> lists;  // by process

  Result<const OpenSpace*> find(const Extent& extent) const;
  Result<void> store(const BatchView& batch);
  // One call for as many extents as follow each other in one process: the payload is contiguous.
  static Result<void> store_run(const OpenSpace& target, ExtentKind kind, const Ranges& ranges,
                                const std::byte* from);
};

Result<const OpenSpace*> PageSink::State::find(const Extent& extent) const {
  const auto found = spaces.find({extent.space_kind, extent.space_id});
  if (found == spaces.end()) return fail("store pages in", describe(extent), EBADMSG, "no such space");
  GODWIT_TRY(check_bounds(found->second, extent));
  return &found->second;
}

Result<void> PageSink::State::store_run(const OpenSpace& target, ExtentKind kind, const Ranges& ranges,
                                        const std::byte* from) {
  if (target.space.kind == SpaceKind::kProcess)
    return kind == ExtentKind::kZero ? target.memory.write_zeroes(ranges) : target.memory.write(ranges, from);
  for (const Range& range : ranges) {
    if (kind == ExtentKind::kZero) {
      GODWIT_TRY(punch_shared(target, range));
      continue;
    }
    GODWIT_TRY(write_shared(target, range, from));
    from += range.size();
  }
  return {};
}

Result<void> PageSink::State::store(const BatchView& batch) {
  const std::byte* from = batch.payload().data();
  const std::vector<Extent>& extents = batch.extents();
  for (size_t i = 0; i < extents.size();) {
    const Extent& first = extents[i];
    GODWIT_ASSIGN(const OpenSpace* const target, find(first));
    Ranges run;
    uint64_t bytes = 0;
    for (; i < extents.size(); ++i) {
      const Extent& extent = extents[i];
      if (extent.kind != first.kind || extent.space_kind != first.space_kind ||
          extent.space_id != first.space_id)
        break;
      GODWIT_TRY(check_bounds(*target, extent));
      run.push_back({extent.start, extent.start + extent.size});
      bytes += extent.size;
    }
    GODWIT_TRY(store_run(*target, first.kind, run, from));
    if (lists_kept && first.space_kind == SpaceKind::kProcess) {
      const std::lock_guard lists_lock(lists_mutex);
      Ranges& list = lists[first.space_id];
      list.insert(list.end(), run.begin(), run.end());
    }
    if (first.kind == ExtentKind::kPages) from += bytes;
    bytes_stored += bytes;
  }
  return {};
}

PageSink::PageSink() : state_(std::make_unique<State>()) {}
PageSink::~PageSink() = default;

Result<void> PageSink::set_spaces(const std::vector<Space>& spaces) {
  const std::unique_lock lock(state_->mutex);
  std::map<SpaceKey, OpenSpace> fresh;
  for (const Space& space : spaces) {
    const SpaceKey key{space.kind, space.id};
    auto known = state_->spaces.extract(key);
    if (!known.empty() && known.mapped().space.host_pid == space.host_pid) {
      known.mapped().space = space;
      fresh.insert(std::move(known));
    }
    OpenSpace& open = fresh.try_emplace(key, space).first->second;
    if (space.kind == SpaceKind::kProcess) {
      GODWIT_TRY(open.memory.prepare());
    } else if (space.kind == SpaceKind::kSharedMemory) {
      struct stat status {};
      if (::fstat(space.fd, &status) != 0) return fail("look at shared memory", std::to_string(space.id));
      open.size = static_cast<uint64_t>(status.st_size);
    } else {
      return refuse("set the spaces of a page sink", std::to_string(space.id),
                    "neither process nor shared memory");
    }
  }
  state_->spaces = std::move(fresh);
  return {};
}

Result<void> PageSink::apply(std::span<const std::byte> batch) {
  GODWIT_ASSIGN(const BatchView view, BatchView::check(batch));
  const std::shared_lock lock(state_->mutex);
  return state_->store(view);
}

void PageSink::keep_list() {
  state_->lists_kept = true;
}

std::vector<Range> PageSink::take_list(uint64_t space_id) {
  const std::lock_guard lock(state_->lists_mutex);
  return std::exchange(state_->lists[space_id], {});
}

uint64_t PageSink::bytes_stored() const {
  return state_->bytes_stored;
}

}  // namespace godwit::runtime
