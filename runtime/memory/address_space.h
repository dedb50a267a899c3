// The mappings of a process as /proc/PID/maps and smaps show them (proc(5)).
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace godwit::runtime {

// Addresses are bytes, page-aligned, end exclusive.
struct Range {
  uint64_t start = 0;
  uint64_t end = 0;
  [[nodiscard]] uint64_t size() const { return end - start; }
  friend bool operator==(const Range&, const Range&) = default;
};

struct Vma {
  uint64_t start = 0;
  uint64_t end = 0;
  bool readable = false;
  bool writable = false;
  bool executable = false;
  bool shared = false;
  uint64_t offset = 0;
  uint32_t device_major = 0;
  uint32_t device_minor = 0;
  uint64_t inode = 0;
  std::string name;  // path, "[heap]", "[anon:...]", "" ; " (deleted)" kept as the kernel wrote it
  // The two-letter codes of smaps' VmFlags as bits, see vma_flag(); 0 where smaps was not read.
  uint64_t flags = 0;
};

// The parsers behind read_maps and read_smaps, for text of either file. A line that does not read as the
// kernel writes it is an error, as are mappings that are empty, unaligned or out of order. Mappings of a
// running process may overlap, since it changes them between two lines: the later line wins, and the result
// never overlaps. Names come from the container: the kernel writes a newline in a path as \012, so a line is
// always one mapping.
Result<std::vector<Vma>> parse_maps(std::string_view text);
Result<std::vector<Vma>> parse_smaps(std::string_view text);

// Bit of a VmFlags code in Vma::flags: vma_flag("dd"). 0 for codes this project does not use.
uint64_t vma_flag(std::string_view code);

// One read of /proc/PID/maps; cheap (no page-table walk).
Result<std::vector<Vma>> read_maps(pid_t pid);
// With VmFlags, from /proc/PID/smaps; walks page tables: not for the frozen path of large processes.
Result<std::vector<Vma>> read_smaps(pid_t pid);

}  // namespace godwit::runtime
