// Brings the mappings of one process to the snapshot, by the difference alone, in at most two batches:
// unmap and open files; then map, protect, advise and name.
//
// Files are opened by the process itself: it lives in the container's mount namespace and root, so a path
// can lead nowhere else, and it is still the privileged placeholder at heart.
#include <fcntl.h>
#include <linux/mman.h>
#include <linux/openat2.h>
#include <linux/prctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstddef>
#include <map>
#include <tuple>

#include "base/fd.h"
#include "runtime/kernel/uapi.h"
#include "runtime/process/replica/member.h"
#include "runtime/process/replica/seams.h"
#include "runtime/process/scratch.h"
#include "runtime/process/validate.h"

#ifndef PR_SET_VMA
#define PR_SET_VMA 0x53564d41
#define PR_SET_VMA_ANON_NAME 0
#endif

namespace godwit::runtime::rebuild {
namespace {

constexpr uint64_t kHoleMargin = uint64_t{2} << 20;

std::string range_text(uint64_t start, uint64_t end) {
  char text[48];
  snprintf(text, sizeof text, "%llx-%llx", static_cast<unsigned long long>(start),
           static_cast<unsigned long long>(end));
  return text;
}

// A file that the process opens, maps from, and closes again.
struct OpenedFile {
  size_t open_call = 0;
  size_t stat_call = 0;
  CallBatch::Place stat;
  const Area* area = nullptr;  // null: the executable
  int fd = -1;
};

// Path, and whether it has to be writable.
using FileKey = std::tuple<std::string, bool>;
// Id, and whether it has to be writable.
using SharedKey = std::pair<uint64_t, bool>;

class MemoryReconciler {
 public:
  MemoryReconciler(Member& member, const model::Process& wanted, const model::Snapshot& snapshot,
                   const HostFacts& facts, DescriptorRebuild& descriptors)
      : member_(member), wanted_(wanted), snapshot_(snapshot), facts_(facts), descriptors_(descriptors) {}

  Result<void> run() {
    AddressMap map = make_address_map(wanted_.memory());
    GODWIT_TRY(plan_vdso(map));
    if (!member_.bare) GODWIT_TRY(strip());
    GODWIT_TRY(allow_huge_pages());
    if (scratch_collides(map)) GODWIT_TRY(move_scratch(map));
    changes_ = compare(member_.mappings, map);
    const bool new_executable = member_.executable != wanted_.executable();
    if (changes_.empty() && !vdso_changes_ && !new_executable) {
      member_.mappings = std::move(map);  // file identities may have changed
      return {};
    }
    GODWIT_TRY(unmap_and_open(new_executable));
    GODWIT_TRY(hand_in_shared_memory());
    GODWIT_TRY(map_and_dress(new_executable));
    member_.mappings = std::move(map);
    return join_seams();
  }

 private:
  Result<void> join_seams() {
    for (const Anew anew : {Anew::kAllButTheLargest, Anew::kWhole}) {
      GODWIT_ASSIGN(const auto have, read_maps(member_.host_pid));
      changes_ = find_seams(have, wanted_.memory(), member_.mappings, anew);
      if (changes_.empty()) return {};
      GODWIT_ASSIGN(const SavedPages saved, SavedPages::save(member_.host_pid, changes_.unmap));
      vdso_changes_ = false;
      files_.clear();
      shared_.clear();
      GODWIT_TRY(unmap_and_open(false));
      GODWIT_TRY(map_and_dress(false));
      GODWIT_TRY(saved.restore());
    }
    return {};
  }

  // Where the vdso of this host has to begin so that its functions are where the source's were.
  Result<void> plan_vdso(const AddressMap& map) {
    const uint64_t vdso = wanted_.memory().vdso_start();
    if (vdso != 0) {
      if (facts_.vdso_size == 0 || vdso < facts_.vvar_size) {
        return refuse("map the vdso of", member_.name(), "this host has none, or not there");
      }
      vdso_ = {vdso - facts_.vvar_size, vdso + facts_.vdso_size};
      if (vdso_.end > kTaskSize || overlaps(map, vdso_.start, vdso_.end)) {
        return refuse("map the vdso of", member_.name(), "it collides with a mapping of the snapshot");
      }
    }
    vdso_changes_ = vdso_.start != member_.vdso.start;
    return {};
  }

  // Drops everything the process was born with; the scratch alone remains.
  Result<void> strip() {
    const Scratch& scratch = member_.leader().scratch();
    CallBatch batch;
    GODWIT_ASSIGN(const RseqConfiguration rseq, member_.leader().rseq());
    constexpr int kUnregister = 1;  // RSEQ_FLAG_UNREGISTER
    if (rseq.length != 0) {
      batch.call(SYS_rseq, {rseq.address, rseq.length, kUnregister, rseq.signature}, "unregister rseq");
    }
    batch.call(SYS_munmap, {0, scratch.start}, "unmap everything below the scratch");
    const uint64_t end = scratch.start + scratch.size;
    batch.call(SYS_munmap, {end, kTaskSize - end}, "unmap everything above the scratch");
    GODWIT_TRY(member_.leader().run(batch));
    member_.bare = true;
    member_.mappings.clear();
    member_.vdso = {};
    member_.executable.clear();
    vdso_changes_ = vdso_.end != 0;
    return {};
  }

  // Before a page is stored: where they are allowed, storing one may make 512.
  Result<void> allow_huge_pages() {
    const bool off = wanted_.thp_disable();
    if (member_.huge_pages_off == off) return {};
    GODWIT_TRY(member_.leader().call(SYS_prctl, {PR_SET_THP_DISABLE, off ? 1 : 0, 0, 0, 0},
                                     "set the use of huge pages"));
    member_.huge_pages_off = off;
    return {};
  }

  bool scratch_collides(const AddressMap& map) const {
    const Scratch& scratch = member_.leader().scratch();
    const uint64_t end = scratch.start + scratch.size;
    return overlaps(map, scratch.start, end) || (scratch.start < vdso_.end && vdso_.start < end);
  }

  // To a place that neither what is mapped nor what will be needs.
  Result<void> move_scratch(const AddressMap& map) {
    const Scratch old = member_.leader().scratch();
    AddressMap taken = member_.mappings;
    for (const AddressRange& range : {AddressRange{old.start, old.start + old.size}, vdso_, member_.vdso}) {
      Area area;
      area.start = range.start;
      area.end = range.end;
      taken.push_back(area);
    }
    const Scratch fresh{.start = find_hole(taken, map, old.size, kHoleMargin), .size = old.size};
    if (fresh.start == 0) return refuse("move the scratch of", member_.name(), "no free addresses");
    CallBatch batch;
    batch.call(SYS_mmap,
               {fresh.start, fresh.size, PROT_READ | PROT_EXEC,
                MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE, -1, 0},
               "map the scratch anew");
    batch.call(SYS_mprotect,
               {fresh.start + kScratchFrame, fresh.size - kScratchFrame, PROT_READ | PROT_WRITE},
               "protect the scratch");
    batch.call(SYS_madvise, {fresh.start, fresh.size, MADV_DONTDUMP}, "madvise of the scratch");
    GODWIT_TRY(member_.leader().run(batch));
    // The code is not writable: only a tracer can put it there.
    const std::string path = "/proc/" + std::to_string(member_.host_pid) + "/mem";
    GODWIT_ASSIGN(const Fd memory, open_file(path, O_RDWR));
    const auto length = static_cast<size_t>(godwit_scratch_code_end - godwit_scratch_code);
    if (::pwrite(memory.get(), godwit_scratch_code, length, static_cast<off_t>(fresh.start)) !=
        static_cast<ssize_t>(length)) {
      return fail("write", path);
    }
    for (MemberThread& thread : member_.threads) thread.puppet->adopt_scratch(fresh);
    GODWIT_TRY(member_.leader().call(SYS_munmap, {old.start, old.size}, "unmap the old scratch"));
    return {};
  }

  void open_in(CallBatch& batch, const std::string& path, bool writable, const Area* area) {
    const auto [place, added] = files_.try_emplace({path, writable});
    if (!added) return;
    OpenedFile& file = place->second;
    open_how how{};
    // A file that has become a pipe or a terminal must neither block nor take over.
    how.flags = (writable ? O_RDWR : O_RDONLY) | O_CLOEXEC | O_NONBLOCK | O_NOCTTY;
    how.resolve = RESOLVE_NO_MAGICLINKS;
    file.area = area;
    file.open_call = batch.call(SYS_openat2, {AT_FDCWD, batch.text(path), batch.object(how), sizeof how},
                                "open " + path + " in the container");
  }

  // What may become writable needs a descriptor that is, and what may not must have none (mmap(2)).
  static bool needs_writing(const Area& area) { return area.shared && !area.read_only; }

  Result<void> unmap_and_open(bool new_executable) {
    CallBatch batch;
    for (const AddressRange& range : changes_.unmap) {
      batch.call(SYS_munmap, {range.start, range.end - range.start},
                 "munmap " + range_text(range.start, range.end));
    }
    if (vdso_changes_ && member_.vdso.end != 0) {
      batch.call(SYS_munmap, {member_.vdso.start, member_.vdso.end - member_.vdso.start}, "munmap vdso");
    }
    for (const Area& area : changes_.map) {
      if (area.kind == AreaKind::kFile) open_in(batch, area.path, needs_writing(area), &area);
    }
    if (new_executable) open_in(batch, wanted_.executable(), false, nullptr);
    GODWIT_TRY(member_.leader().run(batch));
    if (files_.empty()) return {};

    CallBatch stats;
    for (auto& [key, file] : files_) {
      file.fd = static_cast<int>(batch.result(file.open_call));
      file.stat = stats.room(sizeof(struct stat));
      stats.call(SYS_fstat, {file.fd, file.stat}, "fstat " + std::get<0>(key));
    }
    GODWIT_TRY(member_.leader().run(stats));
    for (const auto& [key, file] : files_) {
      GODWIT_TRY(check_file(std::get<0>(key), stats.read<struct stat>(file.stat), file.area));
    }
    return {};
  }

  Result<void> check_file(const std::string& path, const struct stat& found, const Area* area) const {
    if (!S_ISREG(found.st_mode)) return refuse("map", path, "it is not a regular file on this host");
    if (area == nullptr || (area->file_size == 0 && area->file_modified_ns == 0) || needs_writing(*area)) {
      return {};
    }
    const int64_t modified = found.st_mtim.tv_sec * 1'000'000'000 + found.st_mtim.tv_nsec;
    if (static_cast<uint64_t>(found.st_size) != area->file_size || modified != area->file_modified_ns) {
      return refuse("map", path, "the file differs from the source's in size or modification time");
    }
    return {};
  }

  Result<void> hand_in_shared_memory() {
    for (const Area& area : changes_.map) {
      const SharedKey key(area.shared_memory, needs_writing(area));
      if (area.kind != AreaKind::kSharedMemory || shared_.contains(key)) continue;
      GODWIT_ASSIGN(int ours, descriptors_.shared_memory_fd(snapshot_, area.shared_memory));
      Fd read_only;
      if (!needs_writing(area)) {
        GODWIT_ASSIGN(read_only, open_file("/proc/self/fd/" + std::to_string(ours), O_RDONLY));
        ours = read_only.get();
      }
      GODWIT_ASSIGN(const int theirs, descriptors_.hand_in(member_.process(), ours));
      shared_[key] = theirs;
    }
    return {};
  }

  Result<void> map_and_dress(bool new_executable) {
    CallBatch batch;
    if (new_executable) set_executable(batch);
    for (const Area& area : changes_.map) GODWIT_TRY(map_area(batch, area));
    size_t vdso_call = SIZE_MAX;
    if (vdso_changes_ && vdso_.end != 0) {
      vdso_call = batch.call(SYS_arch_prctl, {ARCH_MAP_VDSO_64, vdso_.start}, "map the vdso");
    }
    for (const auto& change : changes_.protect) {
      batch.call(SYS_mprotect, {change.range.start, change.range.end - change.range.start, change.protection},
                 "mprotect " + range_text(change.range.start, change.range.end));
    }
    for (const auto& change : changes_.advise) advise(batch, change);
    for (const auto& change : changes_.rename) rename(batch, change);
    for (const auto& [key, file] : files_) batch.call(SYS_close, {file.fd}, "close");
    for (const auto& [key, fd] : shared_) batch.call(SYS_close, {fd}, "close");
    GODWIT_TRY(member_.leader().run(batch));
    if (new_executable) member_.executable = wanted_.executable();
    member_.vdso = vdso_;
    if (vdso_call != SIZE_MAX) return check_vdso();
    return {};
  }

  // Goes before the mappings: the kernel lets go of an executable only while none of its pages are mapped,
  // and a child has that of its parent, which may well be the one it is to map again. For the same reason it
  // may not hang on the snapshot's layout, which can be impossible if it was read in the midst of an
  // execve(2); the process gets that when it is frozen.
  void set_executable(CallBatch& batch) {
    set_memory_layout(batch, layout_of(member_.leader().scratch()),
                      files_.at({wanted_.executable(), false}).fd);
  }

  // A layout that the kernel accepts of any process.
  static model::AddressSpace layout_of(const Scratch& scratch) {
    model::AddressSpace layout;
    const uint64_t start = scratch.start;
    const uint64_t end = scratch.start + scratch.size;
    layout.set_start_code(start);
    layout.set_end_code(end);
    layout.set_start_data(start);
    layout.set_end_data(start);
    layout.set_start_brk(end);
    layout.set_brk(end);
    layout.set_start_stack(start);
    layout.set_arg_start(start);
    layout.set_arg_end(start);
    layout.set_env_start(start);
    layout.set_env_end(start);
    return layout;
  }

  Result<void> map_area(CallBatch& batch, const Area& area) {
    uint32_t flags = area.create_flags | MAP_FIXED_NOREPLACE | (area.shared ? MAP_SHARED : MAP_PRIVATE);
    int fd = -1;
    if (area.kind == AreaKind::kAnonymous) {
      flags |= MAP_ANONYMOUS;
    } else if (area.kind == AreaKind::kFile) {
      fd = files_.at({area.path, needs_writing(area)}).fd;
    } else {
      fd = shared_.at({area.shared_memory, needs_writing(area)});
    }
    batch.call(SYS_mmap, {area.start, area.size(), area.protection, flags, fd, area.offset},
               "mmap " + range_text(area.start, area.end) + (area.path.empty() ? "" : " of " + area.path));
    return {};
  }

  // Hints that only tune this host may be unknown to it; what changes meaning may not.
  static void advise(CallBatch& batch, const AddressChanges::Advise& change) {
    struct Advice {
      uint32_t bit;
      int on;
      int off;  // -1: cannot be taken back
      bool hint;
    };
    static constexpr Advice kAdvices[] = {
        {model::ADVICE_DONTFORK, MADV_DONTFORK, MADV_DOFORK, false},
        {model::ADVICE_DONTDUMP, MADV_DONTDUMP, MADV_DODUMP, false},
        {model::ADVICE_HUGEPAGE, MADV_HUGEPAGE, -1, true},
        {model::ADVICE_NOHUGEPAGE, MADV_NOHUGEPAGE, -1, true},
        {model::ADVICE_MERGEABLE, MADV_MERGEABLE, MADV_UNMERGEABLE, true},
        {model::ADVICE_WIPEONFORK, MADV_WIPEONFORK, MADV_KEEPONFORK, false},
    };
    const uint64_t start = change.range.start;
    const uint64_t size = change.range.end - start;
    for (const Advice& advice : kAdvices) {
      if (((change.from ^ change.to) & advice.bit) == 0) continue;
      const int value = (change.to & advice.bit) != 0 ? advice.on : advice.off;
      if (value < 0) continue;
      if (advice.hint) {
        batch.call_may_fail(SYS_madvise, {start, size, value});
      } else {
        batch.call(SYS_madvise, {start, size, value}, "madvise " + range_text(start, change.range.end));
      }
    }
    constexpr uint32_t kLocks = model::ADVICE_LOCKED | model::ADVICE_LOCKED_ONFAULT;
    if (((change.from ^ change.to) & kLocks) == 0) return;
    if ((change.to & kLocks) == 0) {
      batch.call(SYS_munlock, {start, size}, "munlock " + range_text(start, change.range.end));
    } else {
      // Always on fault: the pages arrive one by one, and what has arrived is locked as by mlock(2).
      batch.call(SYS_mlock2, {start, size, MLOCK_ONFAULT}, "mlock2 " + range_text(start, change.range.end));
    }
  }

  static void rename(CallBatch& batch, const AddressChanges::Rename& change) {
    // A name is for the eyes only; kernels without CONFIG_ANON_VMA_NAME know none.
    const CallBatch::Argument name =
        change.name.empty() ? CallBatch::Argument(0) : CallBatch::Argument(batch.text(change.name));
    batch.call_may_fail(SYS_prctl, {PR_SET_VMA, PR_SET_VMA_ANON_NAME, change.range.start,
                                    change.range.end - change.range.start, name});
  }

  // The kernel takes the address as a wish only.
  Result<void> check_vdso() const {
    GODWIT_ASSIGN(const std::string maps, read_file("/proc/" + std::to_string(member_.host_pid) + "/maps"));
    const std::string start = range_text(vdso_.end - facts_.vdso_size, vdso_.end);
    const size_t line = maps.find(start);
    if (line != std::string::npos && maps.substr(line, maps.find('\n', line) - line).ends_with("[vdso]")) {
      return {};
    }
    return refuse("map the vdso of", member_.name(), "the kernel has put it elsewhere than at " + start);
  }

  Member& member_;
  const model::Process& wanted_;
  const model::Snapshot& snapshot_;
  const HostFacts& facts_;
  DescriptorRebuild& descriptors_;
  AddressRange vdso_;
  bool vdso_changes_ = false;
  AddressChanges changes_;
  std::map<FileKey, OpenedFile> files_;
  std::map<SharedKey, int> shared_;
};

}  // namespace

void set_memory_layout(CallBatch& batch, const model::AddressSpace& memory, int exe_fd) {
  prctl_mm_map map{};
  map.start_code = memory.start_code();
  map.end_code = memory.end_code();
  map.start_data = memory.start_data();
  map.end_data = memory.end_data();
  map.start_brk = memory.start_brk();
  map.brk = memory.brk();
  map.start_stack = memory.start_stack();
  map.arg_start = memory.arg_start();
  map.arg_end = memory.arg_end();
  map.env_start = memory.env_start();
  map.env_end = memory.env_end();
  map.auxv_size = static_cast<uint32_t>(memory.auxv().size());
  map.exe_fd = static_cast<uint32_t>(exe_fd);
  const auto auxv = batch.data(std::as_bytes(std::span(memory.auxv().data(), memory.auxv().size())));
  const auto place = batch.object(map);
  if (map.auxv_size != 0) batch.link(place, offsetof(prctl_mm_map, auxv), auxv);
  batch.call(SYS_prctl, {PR_SET_MM, PR_SET_MM_MAP, place, sizeof map, 0}, "set the memory layout");
}

Result<void> reconcile_address_space(Member& member, const model::Process& wanted,
                                     const model::Snapshot& snapshot, const HostFacts& facts,
                                     DescriptorRebuild& descriptors) {
  return MemoryReconciler(member, wanted, snapshot, facts, descriptors).run();
}

}  // namespace godwit::runtime::rebuild
