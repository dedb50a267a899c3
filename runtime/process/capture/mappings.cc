#include "runtime/process/capture/mappings.h"

#include <fcntl.h>
#include <linux/magic.h>
#include <linux/mman.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <unistd.h>

#include <algorithm>
#include <climits>
#include <cstdio>
#include <cstring>

namespace godwit::runtime {
namespace {

std::string hex(uint64_t value) {
  char text[17];
  std::snprintf(text, sizeof text, "%lx", value);
  return text;
}

std::string map_file(pid_t pid, const Vma& vma) {
  return "/proc/" + std::to_string(pid) + "/map_files/" + hex(vma.start) + "-" + hex(vma.end);
}

std::string object_name(const Vma& vma) {
  return "mapping " + hex(vma.start) + "-" + hex(vma.end) + (vma.name.empty() ? "" : " " + vma.name);
}

constexpr std::string_view kMemfd = "/memfd:";

// "/memfd:name (deleted)" -> "name"
std::string memfd_name(std::string_view name) {
  constexpr std::string_view kSuffix = " (deleted)";
  name.remove_prefix(kMemfd.size());
  if (name.ends_with(kSuffix)) name.remove_suffix(kSuffix.size());
  return std::string(name);
}

// The superblock in which the kernel keeps MAP_SHARED|MAP_ANONYMOUS objects and memfds.
bool on_kernel_shmem(const Vma& vma) {
  return vma.shared && vma.device_major == 0 && vma.device_minor == 1 &&
         (vma.name.starts_with("/dev/zero") || vma.name.starts_with(kMemfd) ||
          vma.name.starts_with("[anon_shmem"));
}

bool is_kernels_own(const Vma& vma) {
  return vma.name == "[vdso]" || vma.name == "[vsyscall]" || vma.name.starts_with("[vvar");
}

// Why a mapping of this kind cannot be made again; empty if it can.
std::string refusal_of_kind(const Vma& vma, uint64_t flags) {
  if ((flags & vma_flag("ht")) != 0)
    return "huge pages of hugetlbfs are not moved; use transparent huge pages";
  if ((flags & vma_flag("ss")) != 0) return "a shadow stack cannot be made again";
  if ((flags & vma_flag("sl")) != 0) return "it is sealed (mseal)";
  if ((flags & (vma_flag("um") | vma_flag("ui"))) != 0) return "the process uses userfaultfd itself";
  if (vma.name.starts_with("/SYSV")) return "System V shared memory is not moved";
  if (vma.name.starts_with("/[aio]"))
    return "kernel asynchronous I/O (io_setup) is not moved; use another back end";
  if (vma.name.starts_with("anon_inode:"))
    return "memory of a kernel object (" + vma.name.substr(11) + ") is not moved";
  if (vma.name.starts_with("socket:")) return "memory of a socket is not moved";
  if (vma.name.starts_with("/anon_hugepage")) return "huge pages of hugetlbfs are not moved";
  if (!vma.shared && vma.name.starts_with(kMemfd)) return "a private mapping of a memfd is not moved";
  if (vma.name == "[uprobes]") return "it is probed (uprobes)";
  if ((flags & (vma_flag("pf") | vma_flag("io"))) != 0) return "device memory is not moved";
  const bool known = vma.name.empty() || vma.name.front() == '/' || vma.name == "[heap]" ||
                     vma.name == "[stack]" || vma.name.starts_with("[anon:") ||
                     vma.name.starts_with("[anon_shmem:");
  return known ? "" : "Godwit does not know this kind of mapping";
}

uint32_t advice_of(uint64_t flags) {
  uint32_t advice = 0;
  const auto add = [&](std::string_view code, uint32_t bit) {
    advice |= (flags & vma_flag(code)) != 0 ? bit : 0;
  };
  add("dc", model::ADVICE_DONTFORK);
  add("dd", model::ADVICE_DONTDUMP);
  add("hg", model::ADVICE_HUGEPAGE);
  add("nh", model::ADVICE_NOHUGEPAGE);
  add("mg", model::ADVICE_MERGEABLE);
  add("wf", model::ADVICE_WIPEONFORK);
  add("lo", model::ADVICE_LOCKED);
  add("lf", model::ADVICE_LOCKED_ONFAULT);
  return advice;
}

// "[anon:name]" and "[anon_shmem:name]" -> "name"
std::string given_name(const std::string& name) {
  for (const std::string_view prefix : {"[anon:", "[anon_shmem:"})
    if (name.starts_with(prefix) && name.ends_with("]"))
      return name.substr(prefix.size(), name.size() - prefix.size() - 1);
  return {};
}

Result<std::string> read_link(const std::string& path) {
  char target[PATH_MAX];
  const ssize_t length = ::readlink(path.c_str(), target, sizeof target);
  if (length < 0) return fail("read the link", path);
  return std::string(target, static_cast<size_t>(length));
}

}  // namespace

Result<void> MappingReader::refresh_advice(pid_t pid) {
  GODWIT_ASSIGN(auto vmas, read_smaps(pid));
  advice_[pid] = std::move(vmas);
  return {};
}

// The flags of the mapping as smaps last showed it; those of a mapping that did not exist then are its
// defaults: advice that is given between the last live round and the freeze is not carried.
uint64_t MappingReader::flags_of(pid_t pid, const Vma& vma) const {
  uint64_t flags = vma.name == "[stack]" ? vma_flag("gd") : 0;
  const auto known = advice_.find(pid);
  if (known == advice_.end()) return flags;
  const auto& list = known->second;
  auto at = std::ranges::upper_bound(list, vma.start, {}, &Vma::start);
  if (at != list.begin()) --at;
  for (; at != list.end() && at->start < vma.end; ++at)
    if (at->end > vma.start && at->name == vma.name && at->shared == vma.shared) return flags | at->flags;
  return flags;
}

// What smaps last showed of this very mapping, or of a longer one that it was a part of then.
const Vma* MappingReader::find_same(pid_t pid, const Vma& vma) const {
  const auto known = advice_.find(pid);
  if (known == advice_.end()) return nullptr;
  auto at = std::ranges::upper_bound(known->second, vma.start, {}, &Vma::start);
  if (at == known->second.begin()) return nullptr;
  --at;
  const bool same = at->end >= vma.end && at->inode == vma.inode && at->name == vma.name;
  return same ? &*at : nullptr;
}

// Whether a shared mapping can never become writable. smaps says so. Of a mapping that it has not shown yet
// the link under map_files tells how its file was opened, without a walk through page tables; only for a
// memfd that was opened for writing, and may have been sealed before it was mapped, smaps has to be read.
Result<bool> MappingReader::is_read_only(pid_t pid, const Vma& vma) {
  if (!vma.shared || vma.writable) return false;
  const Vma* known = find_same(pid, vma);
  if (known == nullptr) {
    struct stat link {};
    const std::string path = map_file(pid, vma);
    if (::lstat(path.c_str(), &link) != 0) {
      if (errno == ENOENT) return false;  // gone at this moment: the container runs, and this is not the last
      return fail("examine", path);
    }
    if ((link.st_mode & S_IWUSR) == 0) return true;
    if (!vma.name.starts_with(kMemfd)) return false;
    GODWIT_TRY(refresh_advice(pid));
    known = find_same(pid, vma);
  }
  return known != nullptr && (known->flags & vma_flag("mw")) == 0;
}

Result<const MappingReader::File*> MappingReader::file_of(pid_t pid, const Vma& vma) {
  const FileKey key(vma.device_major, vma.device_minor, vma.inode, vma.name);
  const auto known = files_.find(key);
  if (known != files_.end()) return &known->second;

  File file;
  // maps writes a newline as \012 and a backslash as itself: the link under map_files is exact.
  const std::string link = map_file(pid, vma);
  const auto path = read_link(link);
  struct stat there {
  }, here{};
  struct statfs system {};
  if (!path && path.error().code == ENOENT) return std::unexpected(path.error());
  if (!path) {
    file.refusal = path.error().to_string();
    return &(files_[key] = std::move(file));
  }
  file.path = *path;
  const std::string from_outside = "/proc/" + std::to_string(pid) + "/root" + file.path;
  if (::stat(link.c_str(), &there) != 0 || ::statfs(link.c_str(), &system) != 0) {
    file.refusal = "cannot be examined: " + std::string(::strerrordesc_np(errno));
  } else if (!S_ISREG(there.st_mode)) {
    file.refusal = "a mapped device is not moved";
  } else if (there.st_nlink == 0) {
    file.refusal = "the file is deleted and would be lost";
  } else if (::stat(from_outside.c_str(), &here) != 0 || here.st_ino != there.st_ino ||
             here.st_dev != there.st_dev) {
    file.refusal = "its path leads to another file now (renamed, replaced, or another mount over it)";
  } else if (system.f_type == TMPFS_MAGIC) {
    file.refusal = "a file on a tmpfs stays behind with the host's memory; keep it on the root file system";
  } else if (system.f_type == HUGETLBFS_MAGIC) {
    file.refusal = "huge pages of hugetlbfs are not moved";
  }
  file.identity.set_size(static_cast<uint64_t>(there.st_size));
  file.identity.set_modified_ns(there.st_mtim.tv_sec * 1'000'000'000 + there.st_mtim.tv_nsec);
  file.identity.set_device(there.st_dev);
  file.identity.set_inode(there.st_ino);
  return &(files_[key] = std::move(file));
}

Result<void> MappingReader::add_shared(pid_t pid, const Vma& vma, model::Mapping& mapping) {
  mapping.set_shared_memory(vma.inode);
  MappedMemory& object = shared_[vma.inode];
  object.in_use = true;
  if (object.fd.valid()) return {};
  auto opened = open_file(map_file(pid, vma), O_RDONLY | O_NOATIME);
  if (!opened) {
    shared_.erase(vma.inode);
    return std::unexpected(std::move(opened).error());
  }
  object.fd = *std::move(opened);
  object.memfd = vma.name.starts_with(kMemfd);
  if (object.memfd) object.name = memfd_name(vma.name);
  return {};
}

void MappingReader::begin_round() {
  for (auto& [id, object] : shared_) object.in_use = false;
}

void MappingReader::end_round() {
  std::erase_if(shared_, [](const auto& entry) { return !entry.second.in_use; });
}

Result<void> MappingReader::describe(pid_t pid, const Vma& vma, uint64_t flags, model::Mapping& mapping,
                                     const Complaint& complain) {
  mapping.set_start(vma.start);
  mapping.set_end(vma.end);
  mapping.set_protection((vma.readable ? PROT_READ : 0) | (vma.writable ? PROT_WRITE : 0) |
                         (vma.executable ? PROT_EXEC : 0));
  uint32_t map_flags = vma.shared ? MAP_SHARED : MAP_PRIVATE;
  if ((flags & vma_flag("gd")) != 0) map_flags |= MAP_GROWSDOWN;
  if ((flags & vma_flag("nr")) != 0) map_flags |= MAP_NORESERVE;
  mapping.set_advice(advice_of(flags));
  mapping.set_name(given_name(vma.name));
  if (on_kernel_shmem(vma)) {
    if (!vma.name.starts_with(kMemfd)) map_flags |= MAP_ANONYMOUS;
    mapping.set_offset(vma.offset);
    GODWIT_TRY(add_shared(pid, vma, mapping));
  } else if (vma.inode != 0) {
    GODWIT_ASSIGN(const File* const file, file_of(pid, vma));
    if (!file->refusal.empty()) complain(object_name(vma), file->refusal);
    mapping.set_offset(vma.offset);
    mapping.set_path(file->path);
    *mapping.mutable_file() = file->identity;
  } else {
    map_flags |= MAP_ANONYMOUS;
  }
  mapping.set_flags(map_flags);
  GODWIT_ASSIGN(const bool read_only, is_read_only(pid, vma));
  mapping.set_read_only(read_only);
  return {};
}

Result<void> MappingReader::add(pid_t pid, const Vma& vma, bool frozen, model::AddressSpace& memory,
                                const Complaint& complain) {
  if (is_kernels_own(vma)) {
    if (vma.name == "[vdso]") memory.set_vdso_start(vma.start);
    if (vma.name.starts_with("[vvar") && memory.vvar_start() == 0) memory.set_vvar_start(vma.start);
    return {};
  }
  const uint64_t flags = flags_of(pid, vma);
  if (const std::string reason = refusal_of_kind(vma, flags); !reason.empty())
    complain(object_name(vma), reason);
  model::Mapping mapping;
  auto described = describe(pid, vma, flags, mapping, complain);
  if (described) *memory.add_mappings() = std::move(mapping);
  return described || frozen || described.error().code != ENOENT ? described : Result<void>();
}

Result<void> MappingReader::read(pid_t pid, const Scratch& scratch, bool frozen, model::AddressSpace& memory,
                                 const Complaint& complain) {
  GODWIT_ASSIGN(const auto vmas, read_maps(pid));
  const uint64_t scratch_end = scratch.start + scratch.size;
  for (const Vma& vma : vmas) {
    // The kernel may have merged the scratch with a neighbour: what lies on either side of it stays.
    const bool touches = scratch.valid() && vma.start < scratch_end && vma.end > scratch.start;
    if (!touches) {
      GODWIT_TRY(add(pid, vma, frozen, memory, complain));
      continue;
    }
    Vma left = vma, right = vma;
    left.end = std::min(left.end, scratch.start);
    right.start = std::max(right.start, scratch_end);
    if (left.start < left.end) GODWIT_TRY(add(pid, left, frozen, memory, complain));
    if (right.start < right.end) GODWIT_TRY(add(pid, right, frozen, memory, complain));
  }
  return {};
}

}  // namespace godwit::runtime
