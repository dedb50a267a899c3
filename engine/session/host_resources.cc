#include "engine/session/host_resources.h"

#include <cpuid.h>
#include <unistd.h>

#include <algorithm>
#include <sstream>
#include <thread>

#include "base/fd.h"

namespace godwit::engine {

Result<uint64_t> resident_bytes(pid_t pid) {
  const std::string path = "/proc/" + std::to_string(pid) + "/statm";
  GODWIT_ASSIGN(const std::string text, read_file(path, 4096));
  std::istringstream words(text);
  uint64_t size = 0;
  uint64_t resident = 0;
  if (!(words >> size >> resident)) return refuse("read", path, "it is not as proc(5) describes it");
  return resident * static_cast<uint64_t>(::sysconf(_SC_PAGESIZE));
}

Result<uint64_t> available_memory_bytes() {
  constexpr const char* kPath = "/proc/meminfo";
  GODWIT_ASSIGN(const std::string text, read_file(kPath, 1 << 16));
  std::istringstream lines(text);
  std::string key;
  uint64_t kilobytes = 0;
  std::string unit;
  while (lines >> key >> kilobytes) {
    if (key == "MemAvailable:") return kilobytes * 1024;
    std::getline(lines, unit);
  }
  return refuse("read MemAvailable from", kPath, "it is not there");
}

uint32_t extended_state_bytes() {
  constexpr unsigned kStateLeaf = 13;
  unsigned eax = 0;
  unsigned ebx = 0;
  unsigned ecx = 0;
  unsigned edx = 0;
  return __get_cpuid_count(kStateLeaf, 0, &eax, &ebx, &ecx, &edx) != 0 ? ebx : 0;
}

uint32_t default_streams() {
  // One stream keeps a sending and a receiving processor busy; the container wants the others.
  return std::clamp(std::thread::hardware_concurrency() / 4, 1U, 4U);
}

}  // namespace godwit::engine
